"""What a trial that ended has shown of its recipe: its rungs, and its score or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.parameters import Value
from storage.records import State

FAILED = (0.0, 64)  # a trial that failed counts as one that followed none of so many prompts
ENDED: tuple[State, ...] = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Tried:
    """A trial that ended. `bits` by fraction of the horizon. `score`: (share of prompts followed, prompts) at the end,
    None for one that was stopped at a rung."""

    number: int
    params: Mapping[str, Value]
    bits: Mapping[float, float]
    score: tuple[float, int] | None

    @property
    def reached(self) -> float:
        """The fraction of the horizon that it was trained for."""
        return 1.0 if self.score else max(self.bits, default=0.0)

    @property
    def tells(self) -> bool:
        """Whether it has seen a rung or a score."""
        return bool(self.bits or self.score)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, as it is recorded: its state, its value, minus its bits per byte by percent of the horizon."""

    state: State
    value: float | None
    rungs: Mapping[int, float]
    user_attrs: Mapping[str, Any]


def tried(number: int, params: Mapping[str, Value], outcome: Outcome) -> Tried | None:
    """What the trial has shown; None for a suggestion that did not fit."""
    if "infeasible" in outcome.user_attrs:
        return None
    bits = {step / 100: -value for step, value in outcome.rungs.items()}
    if outcome.state == "complete":
        assert outcome.value is not None
        score = (outcome.value, outcome.user_attrs.get("prompts_asked", FAILED[1]))
        return Tried(number, params, bits, score)
    return Tried(number, params, bits, FAILED if outcome.state == "failed" else None)
