"""Scores of verdicts: what is known of an answer that was ended early, and what a Score refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from objectives.score import Measure, Score, Verdict

Known = tuple[bool | None, ...]


def verdict(key: int, strict: Known, loose: Known, decided: bool = False) -> Verdict:
    names = tuple(f"type:{i}" for i in range(len(strict)))
    common = {"tokens": 3, "capped": False, "decided": decided}
    return Verdict(key=key, instruction_id_list=names, strict=strict, loose=loose, **common)


def score(verdicts: list[Verdict], defective: tuple[int, ...] = ()) -> Score:
    facts = {"looped": 0, "empty": 0, "prompts_sha256": "0", "exact": True, "seconds": 1.0}
    return Score.of(verdicts, defective=defective, **facts)


FLAGS = st.lists(st.booleans(), min_size=1, max_size=3)


@given(st.lists(FLAGS, min_size=1, max_size=8))
def test_whole_answers_give_all_measures(answers: list[list[bool]]) -> None:
    made = score([verdict(key, tuple(strict), tuple(strict)) for key, strict in enumerate(answers)])
    flat = [followed for strict in answers for followed in strict]
    assert made.prompt_strict == made.prompt_loose == made.clean == Measure.of([all(strict) for strict in answers])
    assert made.instruction_strict == made.instruction_loose == Measure.of(flat)
    assert sum(measure.n for measure in made.by_type.values()) == len(flat)
    assert (made.value, made.tokens) == (made.prompt_strict.value, 3 * len(answers))


def test_one_answer_that_was_ended_early_leaves_the_headline_alone() -> None:
    made = score([verdict(1, (True,), (True,)), verdict(2, (None, False), (None, None), decided=True)])
    assert (made.value, made.prompt_strict.n, made.decided_share) == (0.5, 2, 0.5)
    assert (made.prompt_loose, made.instruction_strict, made.instruction_loose, made.by_type) == (None, None, None, {})


def test_clean_leaves_out_the_defective_ones() -> None:
    verdicts = [verdict(1, (True,), (True,)), verdict(2, (False,), (False,))]
    assert (score(verdicts, (2,)).clean, score(verdicts, (2,)).value) == (Measure.of([True]), 0.5)
    assert score(verdicts, (1, 2)).clean is None


@pytest.mark.parametrize(
    ("strict", "loose", "decided"),
    [
        ((None,), (None,), True),  # neither followed nor not
        ((True, None), (None, None), True),
        ((False, None), (False, None), False),  # nothing was ended early, so everything is known
        ((True,), (None,), False),
        ((True,), (True, True), False),
    ],
)
def test_verdicts_that_cannot_be_are_refused(strict: Known, loose: Known, decided: bool) -> None:
    with pytest.raises(ValidationError, match=r"not known is that of an answer|need as many"):
        verdict(1, strict, loose, decided)


def test_a_measure_of_nothing_is_zero() -> None:
    assert str(Measure.of([])) == "0.000 ± 0.000"
    assert str(Measure.of([True, False])) == "0.500 ± 0.354"


def test_none_and_all_are_told_with_wilson_s_bound_and_no_error_of_nothing() -> None:
    assert str(Measure.of([False] * 64)) == "0.000, ≤ 0.057"
    assert str(Measure.of([True] * 64)) == "1.000, ≥ 0.943"


def test_what_qualifies_a_score_is_said() -> None:
    plain = score([verdict(1, (True,), (True,)), verdict(2, (False,), (False,))])
    (line,) = plain.remarks
    assert line == "answers cut off by the length limit: 0.0%; ending in a loop: 0.0%; without text: 0.0%"
    doubtful = score(list(plain.verdicts), defective=(2,)).model_copy(
        update={"exact": False, "halved": True, "looped": 1, "empty": 1}
    )
    said = "\n".join(doubtful.remarks)
    for part in (
        "without 1 prompts that are known to be defective: 1.000",
        "a loop: 50.0%",
        "text: 50.0%",
        "python -m nltk.downloader punkt_tab",
        "memory ran out",
    ):
        assert part in said
