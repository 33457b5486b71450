"""The report on latency, size and the merged model: both forms side by side, and what is said where one is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from told_report import change, row, said, told

from objectives.agreement import agreement
from objectives.score import Score, Verdict
from train.rundir import read_json


def score(*followed: bool) -> dict[str, Any]:
    verdicts = [
        Verdict(key=key, instruction_id_list=("startend:quotation",), strict=(s,), loose=(s,), tokens=3, capped=False)
        for key, s in enumerate(followed)
    ]
    return Score.of(verdicts, looped=0, empty=0, prompts_sha256="0" * 64, exact=True, seconds=1.0).model_dump(
        mode="json"
    )


def with_merged(study: Path, **changed: Any) -> None:
    """Give the final run of `study` a merged model, which follows one prompt of four less."""
    result = read_json(study / "final" / "result.json")
    assert result is not None
    a, b = score(True, True, True, False), score(True, True, False, False)
    said = [[{"key": key, "response": text} for key, text in enumerate(texts)] for texts in ("abcd", "abcD")]
    spread = {"p50": 0.5, "p95": 0.75}
    latency = {
        **result["latency"],
        "first_token_s": spread,
        "per_token_s": spread,
        "tokens_per_s": {"p50": 7, "p95": 6},
    }
    size = {"total_parameters": 80_448, "trainable_parameters": 0, "adapter_bytes": 0, "loaded_bytes": 3 * 2**20}
    merged = {"dtype": "bfloat16", "weights": "nf4", "matrices": 14, "bytes": 5 * 2**20, "files": 1, "latency": latency}
    agreed = agreement({"sealed": a, "all": a}, {"sealed": b, "all": b}, *said)
    change(study / "final" / "result.json", merged={**merged, "size": size, "agreement": agreed, **changed})


def test_both_forms_stand_side_by_side(study: Path) -> None:
    with_merged(study)
    document = told(study)
    assert row(document, "time to the first token") == (
        *("time to the first token", "0.0120 s", "0.0150 s"),
        *("0.5000 s", "0.7500 s"),
    )
    assert row(document, "tokens per second")[3:] == ("7.0", "6.0")
    assert row(document, "weights in memory")[2] == "3.0 MiB"
    assert row(document, "on disk")[1].endswith(", beside the base model's 5.0 MiB")
    assert row(document, "on disk")[2] == "5.0 MiB"
    assert "merged, nf4: median" in said(document)


def test_scores_and_texts_of_both_are_compared(study: Path) -> None:
    with_merged(study)
    shown = said(told(study))
    assert "| all prompts | 0.750 ± 0.217 | 0.500 ± 0.250 | -0.250 | -" in shown
    assert "in bfloat16: 14 matrices" in shown
    assert "3 of 4 answers are the same text." in shown
    assert "The earliest that parts is the answer to prompt 3, after 0:" in shown


def test_a_merged_model_that_was_left_out_is_told_with_the_reason(study: Path) -> None:
    change(study / "final" / "result.json", merged={"left_out": "5.0 GiB are needed, and 1.0 GiB are free"})
    shown = said(told(study))
    assert "The merged model was not looked at: 5.0 GiB are needed, and 1.0 GiB are free." in shown
    assert f"nightshift export {study} --format merged" in shown
    assert "adapter on 4 bits: median" in shown


def test_a_run_without_one_is_told_without_it(study: Path) -> None:
    shown = said(told(study))
    assert "The merged model was not looked at." in shown


@pytest.mark.parametrize("agreed", [{}, {"scores": 3}, json.loads("[1]")])
def test_what_another_version_wrote_of_it_is_named(study: Path, agreed: object) -> None:
    with_merged(study, agreement=agreed)
    shown = said(told(study))
    assert "cannot be told" not in shown
    assert ("merged in tiny/final/result.json is not what this version writes" in shown) == bool(agreed)
