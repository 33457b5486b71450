"""That a final run which came out short of what was frozen says so."""

from __future__ import annotations

from typing import Any

import pytest

from objectives.score import Measure
from objectives.shortfall import told


def result(followed: int, examples: int, ended: str) -> dict[str, Any]:
    measure = Measure.of([number < followed for number in range(100)])
    scores = {"search": {"prompt_strict": measure.model_dump(mode="json")}}
    return {"scores": scores, "examples": examples, "ended": ended}


def frozen(followed: int | None) -> dict[str, Any]:
    score = None if followed is None else Measure.of([number < followed for number in range(100)]).model_dump()
    return {"recipe": {"examples": 3536}, "origin": {"how": "searched", "score": score}}


@pytest.mark.parametrize(
    ("examples", "ended", "warned"),
    [(176, "hours", 1), (1767, "pace", 1), (1768, "pace", 0), (176, "turned", 0), (176, "replayed", 0)],
)
def test_a_run_of_fewer_than_half_of_its_steps_is_told(examples: int, ended: str, warned: int) -> None:
    lines = list(told(result(70, examples, ended), frozen(70)))
    assert len(lines) == warned
    assert all(f"only {examples:,} of the 3,536 examples" in line for line in lines)


@pytest.mark.parametrize(("trial", "run", "warned"), [(72, 42, 1), (72, 65, 0), (72, 90, 0), (100, 0, 1), (None, 0, 0)])
def test_a_score_clearly_below_the_trial_s_is_told(trial: int | None, run: int, warned: int) -> None:
    lines = list(told(result(run, 3536, "pace"), frozen(trial)))
    assert len(lines) == warned
    assert all(line.startswith("warning: its trial followed ") for line in lines)


def test_a_recipe_chosen_by_hand_has_no_trial_to_be_below_of() -> None:
    assert (
        list(told(result(0, 3536, "pace"), {"recipe": {"examples": 3536}, "origin": {"how": "chosen by hand"}})) == []
    )
