"""The verdict on a run that was made again: bits first, then scores within what chance explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectives.score import Score, Verdict
from search import reproduced
from train.environment import machine
from train.rundir import write_json

NO_COMMA = ("punctuation:no_comma",)


def score(followed: list[bool]) -> dict[str, object]:
    verdicts = [
        Verdict(key=key, instruction_id_list=NO_COMMA, strict=(one,), loose=(one,), tokens=3, capped=False)
        for key, one in enumerate(followed)
    ]
    return Score.of(verdicts, looped=0, empty=0, prompts_sha256="0" * 64, exact=True, seconds=1.0).model_dump(
        mode="json"
    )


def lay(folder: Path, before: list[bool], after: list[bool], *, same: bool = False, **changed: object) -> Path:
    """An unpacked bundle whose run was made again; `changed` replaces facts of the machine that it was made on."""
    for place, followed, weights in (("record", before, b"a"), ("final", after, b"a" if same else b"b")):
        (folder / place).mkdir()
        scores = {part: score(followed) for part in reproduced.PARTS}
        write_json(folder / place / "result.json", {"scores": scores, "versions": {"torch": "2.13.0"}})
        adapter = (folder if place == "record" else folder / "final") / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(weights)
    write_json(folder / "final_run.lock.json", {"machine": {**machine(), "gpu": None, **changed}})
    return folder


GOOD, BAD = [True] * 90 + [False] * 10, [True] * 70 + [False] * 30


def test_the_same_bits_are_enough_anywhere(tmp_path: Path) -> None:
    made = reproduced.judged(lay(tmp_path, GOOD, GOOD, same=True, processor="another"))
    assert made.good
    assert made.lines[-1] == "reproduced: the adapter is the same, bit for bit"
    assert any(line.startswith("another processor: ") for line in made.lines)


def test_other_bits_on_the_same_machine_are_not(tmp_path: Path) -> None:
    made = reproduced.judged(lay(tmp_path, GOOD, GOOD))
    assert not made.good
    assert made.lines[-1] == "not reproduced: the same machine and packages gave another adapter"


@pytest.mark.parametrize(
    ("after", "good"),
    [(GOOD, True), ([False] * 10 + [True] * 90, True), ([True] * 82 + [False] * 18, True), (BAD, False)],
)
def test_elsewhere_scores_may_differ_by_what_chance_explains(tmp_path: Path, after: list[bool], good: bool) -> None:
    made = reproduced.judged(lay(tmp_path, GOOD, after, libc="another"))
    assert made.good is good
    assert "3 standard errors of the paired difference" in made.lines[-1]
    assert reproduced.main([str(tmp_path)]) == (0 if good else 1)


def test_a_card_of_the_same_name_is_no_promise_of_equal_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduced, "_gpu", lambda: "NVIDIA H200")
    made = reproduced.judged(lay(tmp_path, GOOD, GOOD, gpu={"name": "NVIDIA H200", "memory_bytes": 1}))
    assert made.good
    assert "has other bits" in made.lines[-1]


def test_other_packages_are_told(tmp_path: Path) -> None:
    lay(tmp_path, GOOD, GOOD)
    write_json(
        tmp_path / "final" / "result.json",
        {"scores": {part: score(GOOD) for part in reproduced.PARTS}, "versions": {"torch": "2.14.0"}},
    )
    assert "another torch: 2.14.0, not 2.13.0" in reproduced.judged(tmp_path).lines


@pytest.mark.parametrize("text", ["{", "{}", '{"scores": {}, "versions": {}}', '{"scores": {"all": 1}, "versions": 1}'])
def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    lay(tmp_path, GOOD, GOOD)
    (tmp_path / "final" / "result.json").write_text(text)
    assert reproduced.main([str(tmp_path)]) == 2
    assert "final/result.json is not there, or is not whole: run ./reproduce.sh again" in capsys.readouterr().err
