"""How far a run goes, and how far along it is: a pure function of its steps and of the decisions about its end.

A trial goes as far as its recipe says. A final run that is to use its hours learns only on the way how many steps they
hold: at some of its steps its end is decided anew. What is left of the schedule is then spread over the steps that are
left, so that the learning rate goes on from where it was. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

from train.recipe import Recipe

StageName = Literal["sft", "dpo"]
Why = Literal["recipe", "pace", "hours", "turned", "data"]
WORDS: dict[Why, str] = {
    "recipe": "as frozen",
    "pace": "the measured pace",
    "hours": "the hours are used up",
    "turned": "the held-out loss has turned",
    "data": "the data bear no more",
}


@dataclass(frozen=True)
class Decision:
    """After `step` steps: the supervised stage ends at `sft_steps`, the run at `steps`.

    `why`: the recipe says so; the measured pace; the hours are used up; the held-out loss has turned; the data bear no
    more.
    """

    step: int
    sft_steps: int
    steps: int
    why: Why = "recipe"

    def __post_init__(self) -> None:
        if not (0 <= self.step <= self.steps and 0 <= self.sft_steps <= self.steps and self.steps > 0):
            raise ValueError(f"a run cannot end so: {self}")


@dataclass(frozen=True)
class Course:
    """The decisions in force, in the order of their steps; the first one is made at step 0."""

    recipe: Recipe
    decisions: tuple[Decision, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Course:
        """The course of a run that goes as far as its recipe says."""
        return cls(recipe, (Decision(0, recipe.sft_steps, recipe.steps),))

    @property
    def now(self) -> Decision:
        """The newest decision: where the run is to end, as far as is known."""
        return self.decisions[-1]

    def after(self, decision: Decision) -> Course:
        """The course with one more decision; those made at its step or later hold no more."""
        before = [kept for kept in self.decisions if kept.step < decision.step]
        return Course(self.recipe, (*before, decision))

    def before(self, step: int) -> Course:
        """The course as it was when that step was made: without what was decided after it."""
        kept = tuple(decision for decision in self.decisions if decision.step < max(1, step))
        return Course(self.recipe, kept)

    def progress(self, step: int) -> float:
        """The share of the whole run that is done after `step` steps: rises from 0 to 1 without a jump."""
        for begun, done, last, until in self._legs():
            if step <= until:
                return min(1.0, done + _share(step - begun, last - begun) * (1.0 - done))
        return 1.0

    def step_at(self, fraction: float) -> int:
        """The step at which `fraction` of the run is done, at least 1."""
        for begun, done, last, until in self._legs():
            share = (fraction - done) / (1.0 - done) if done < 1.0 else 0.0
            step = max(1, begun + math.ceil((last - begun) * share))
            if step <= until:
                return step
        return self.now.steps

    def place(self, stage: StageName, step: int) -> float:
        """How far `step` steps of the run are in the recipe's own stage, in steps of that, from 0 to `length`.

        In a run that goes as far as its recipe says that is the number of the stage's steps made.
        """
        marks = self._marks(stage)
        place = 0.0
        for (begun, last), (until, _) in pairwise([*marks, (math.inf, 0)]):
            if last > begun:
                place += (min(step, until) - begun) * ((self.length(stage) - place) / (last - begun))
            if step <= until:
                break
        return place

    def length(self, stage: StageName) -> int:
        """The steps of the recipe's own stage, of which `place` counts."""
        return self.recipe.sft_steps if stage == "sft" else self.recipe.dpo_steps

    def _legs(self) -> list[tuple[int, float, int, float]]:
        """Of each decision: its step, the share done there, the end that it set, and the step where the next one is."""
        legs, done = [], 0.0
        for decision, following in pairwise([*self.decisions, None]):
            assert decision is not None
            until = math.inf if following is None else following.step
            legs.append((decision.step, done, decision.steps, until))
            if following is not None:
                done += _share(following.step - decision.step, decision.steps - decision.step) * (1.0 - done)
        return legs

    def _marks(self, stage: StageName) -> list[tuple[float, int]]:
        """The steps at which a stage's end was set, the first being where it begins, and the ends."""
        if stage == "sft":
            return [(decision.step, decision.sft_steps) for decision in self.decisions]
        edge = self.now.sft_steps
        before = [decision for decision in self.decisions if decision.step <= edge]
        later = [(decision.step, decision.steps) for decision in self.decisions if decision.step > edge]
        return [(edge, before[-1].steps), *later]


def _share(steps: int, of: int) -> float:
    return steps / of if of else 0.0


class Horizon(Protocol):
    """Who decides where a run ends. Called from the training thread."""

    course: Course
    most: Recipe  # of the longest run that there may be, whose data are made
    keeps_best: bool  # whether the supervised stage ends when the held-out loss has turned, with its best adapter

    def resume(self, decisions: Sequence[Decision], step: int) -> None:
        """Go on after `step` with the decisions that were in force at the checkpoint; none: from the beginning."""

    def begin_stage(self) -> None:
        """A stage's first step begins now: what lies before made its trainer."""

    def begin_step(self) -> None:
        """The next step begins now: checkpoints and probes lie before."""

    def made(self, stage: StageName, step: int) -> None:
        """A step is made: see whether the end is to be decided anew."""

    def turned(self, stage: StageName, step: int) -> None:
        """The held-out loss has turned: the supervised stage is to end here."""


class Fixed:
    """The recipe's own horizon."""

    keeps_best = False

    def __init__(self, recipe: Recipe) -> None:
        self.course, self.most = Course.of(recipe), recipe

    def resume(self, decisions: Sequence[Decision], step: int) -> None:
        """Nothing is decided on the way."""

    def begin_stage(self) -> None:
        """No time is measured."""

    def begin_step(self) -> None:
        """No time is measured."""

    def made(self, stage: StageName, step: int) -> None:
        """The end stays."""

    def turned(self, stage: StageName, step: int) -> None:
        """The end stays."""


def end_of(recipe: Recipe, steps: int) -> tuple[int, int]:
    """Where the supervised stage and the run end, for a run of so many steps with the recipe's share of DPO."""
    dpo = min(steps - 1, math.ceil(steps * recipe.dpo_share))
    return steps - dpo, steps


def as_json(decision: Decision) -> dict[str, Any]:
    """A decision as it is written down."""
    return {"step": decision.step, "sft_steps": decision.sft_steps, "steps": decision.steps, "why": decision.why}
