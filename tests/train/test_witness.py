"""What a person is shown of a final run while it is at work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_train import make_recipe

from train.clock import Clock
from train.horizon import Decision, Fixed
from train.interrupts import Signals
from train.rundir import RunDir
from train.watch import StepFacts
from train.witness import Witness

FACTS = StepFacts("sft", 1, loss=1.25, learning_rate=1e-3, grad_norm=1.0, seconds=1.0, tokens=9)


@pytest.fixture
def horizon() -> Fixed:
    return Fixed(make_recipe(Path("base"), examples=400))


def shown(horizon: Fixed, folder: Path, ends: dict[int, int], steps: int) -> list[str]:
    """The lines of so many steps, before some of which the end is moved."""
    lines: list[str] = []
    clock = Clock(folder / "clock.json", 7200.0)
    witness = Witness(RunDir(folder), horizon, clock, 7200.0, Signals(), None, lines.append)
    for step in range(1, steps + 1):
        if step in ends:
            horizon.course = horizon.course.after(Decision(step - 1, ends[step], ends[step], "pace"))
        witness.step(replace(FACTS, step=step))
        if step == 3:
            witness.rung(0.03, 3, 0.5)
    return lines


def test_a_twentieth_has_a_line(horizon: Fixed, tmp_path: Path) -> None:
    lines = shown(horizon, tmp_path, {}, steps=100)
    assert [line.partition("  ")[0] for line in lines] == [f"step {step} of 100" for step in (1, *range(5, 101, 5))]
    assert lines[0] == "step 1 of 100  loss 1.2500  0.00 of 2 hours"
    assert lines[1] == "step 5 of 100  loss 1.2500  probe 0.5000 bits per byte  0.00 of 2 hours"


def test_an_end_that_moves_is_told_where_it_moves_by_something(horizon: Fixed, tmp_path: Path) -> None:
    lines = shown(horizon, tmp_path, {2: 99, 3: 98, 4: 97, 6: 200}, steps=7)
    assert [line for line in lines if line.startswith("the end")] == [
        "the end is at step 97 now, not at 100: the measured pace",
        "the end is at step 200 now, not at 97: the measured pace",
    ]


def test_the_time_to_a_first_step_is_kept_for_later_starts(horizon: Fixed, tmp_path: Path) -> None:
    shown(horizon, tmp_path, {}, steps=3)
    assert [event["event"] for event in RunDir(tmp_path).read_events()] == ["under_way"]
