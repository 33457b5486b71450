"""A horizon that follows the clock: as many steps as the hours hold, decided anew as the pace changes. No torch.

The first decision after the frozen one comes when a few minutes were measured, the next ones whenever a tenth of what
is left is over. Each is made durable in horizon.jsonl before it takes effect (see train.decisions). A process that goes
on from a checkpoint takes the decisions that were made after it again, at their steps, as long as the time still
allows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from train.decisions import Decisions
from train.horizon import Course, Decision, StageName, Why, end_of
from train.planning.flops import DPO_TIMES
from train.recipe import Recipe

MEANT = 0.9875  # share of the allowance that is to be used when the last step is made
LATEST = 0.996  # share after which no further step begins, whatever was decided
MEMORY = 0.02  # share of the allowance over which the pace is averaged
PROBE = 0.005  # share of the allowance that is measured before the first decision: 7 minutes of 24 hours
PROBE_STEPS = 4
AGAIN = 0.9  # of the time that was left at a decision is left when the next one is due
SMALL = 0.001  # share of the allowance: what a decision changes by less is left as it is


class Time(Protocol):
    """What is read of a clock (train.clock.Clock)."""

    @property
    def spent_s(self) -> float: ...


class Pace:
    """Seconds that a step of one stage takes in this process: the mean of the last `memory_s`, older ones fading."""

    def __init__(self, memory_s: float) -> None:
        self._memory_s, self._seconds, self._steps = memory_s, 0.0, 0.0
        self.measured, self.measured_s = 0, 0.0

    def step(self, seconds: float) -> None:
        """One more step. The first of a process is left out: kernels are chosen and memory is reserved then."""
        self.measured += 1
        if self.measured == 1:
            return
        kept = math.exp(-seconds / self._memory_s)
        self._seconds, self._steps = kept * self._seconds + seconds, kept * self._steps + 1.0
        self.measured_s += seconds

    @property
    def each_s(self) -> float | None:
        """Seconds a step; None before one is measured."""
        return self._seconds / self._steps if self._steps else None


def farthest(
    recipe: Recipe, most: Recipe, now: Decision, stage: StageName, step: int, usable_s: float, each: tuple[float, float]
) -> tuple[int, int]:
    """Where the supervised stage and the run end at the latest, when `step` steps are made and `usable_s` are left.

    `each` are the seconds of a step of both stages. No more steps than `most` has, and never fewer than are made.
    """
    sft_s, dpo_s = each
    if stage == "dpo" or step >= now.sft_steps < now.steps:
        steps = min(now.sft_steps + most.dpo_steps, step + int(usable_s / dpo_s))
        return now.sft_steps, max(step, steps)
    low, high = step, max(step, most.steps)
    while low < high:  # the longest run whose steps fit
        steps = (low + high + 1) // 2
        edge = max(step, end_of(recipe, steps)[0])
        fits = (edge - step) * sft_s + (steps - edge) * dpo_s <= usable_s
        low, high = (steps, high) if fits else (low, steps - 1)
    return max(step, end_of(recipe, low)[0]) if low > step else step, low


class ByHours:
    """The horizon of a run that is to use `allowance_s` of the clock's seconds, and at most the data of `most`."""

    keeps_best = True

    def __init__(
        self,
        recipe: Recipe,
        most: Recipe,
        decisions: Decisions,
        clock: Time,
        allowance_s: float,
        *,
        longest_s: float = 0.0,
        over: bool = False,
    ) -> None:
        """`longest_s`: the longest pause for a checkpoint and a probe in earlier processes; `over`: there is no time
        for a further step, whatever the clock says."""
        self.recipe, self.most, self.course = recipe, most, Course.of(recipe)
        self._decisions, self._clock, self._allowance_s = decisions, clock, allowance_s
        self._paces: dict[StageName, Pace] = {stage: Pace(MEMORY * allowance_s) for stage in ("sft", "dpo")}
        self._pending: list[Decision] = []
        self._begun_s = self._ended_s = clock.spent_s
        self._stepping_s = self._between_s = 0.0
        self._longest_s, self._over = longest_s, over
        self._due_s = math.inf  # the seconds left at which the next decision is due

    def resume(self, decisions: Sequence[Decision], step: int) -> None:
        """Take over what was decided up to `step`, and remember what was decided after it; end if no time is left."""
        found = self._decisions.read()
        self.course = Course(self.recipe, tuple(decisions)) if decisions else Course.of(self.recipe)
        if not found:
            for decision in self.course.decisions:
                self._decisions.append(decision, self._clock.spent_s)
        self._pending = [decision for decision in found if decision.step >= max(1, step)]
        self._adopt(step)
        self._begun_s = self._ended_s = self._clock.spent_s
        if 0 < step < self.course.now.steps and (self._over or self._begun_s >= self.latest_s):
            self._decide(Decision(step, min(step, self.course.now.sft_steps), step, "hours"))

    def begin_stage(self) -> None:
        """What happened since the last step made the stage's trainer: it comes once, so no step is to pay for it."""
        self._begun_s = self._ended_s = self._clock.spent_s

    def begin_step(self) -> None:
        """What happened since the last step was a checkpoint or a probe."""
        self._begun_s = self._clock.spent_s
        between_s = self._begun_s - self._ended_s
        self._between_s += between_s
        self._longest_s = max(self._longest_s, between_s)

    def made(self, stage: StageName, step: int) -> None:
        """Measure the step; end the run where its hours are used up, or decide anew where that is due."""
        self._ended_s = self._clock.spent_s
        took_s = self._ended_s - self._begun_s
        self._stepping_s += took_s
        pace = self._paces[stage]
        news = not self._known(pace)
        pace.step(took_s)
        if news and self._known(pace):
            self._due_s = math.inf
        self._adopt(step)
        now = self.course.now
        if step >= now.steps:
            return
        if self._ended_s + took_s > self.latest_s:
            self._decide(Decision(step, min(step, now.sft_steps), step, "hours"))
        elif self._known(pace) and not self._in_time(stage, step):
            self._revise(stage, step)

    def turned(self, stage: StageName, step: int) -> None:
        """End the supervised stage here; DPO follows with its share of what was made, if there is time."""
        each, share = self._each(), self.recipe.dpo_share
        dpo = min(self.most.dpo_steps, math.ceil(step * share / (1.0 - share)))
        if dpo and each:
            dpo = min(dpo, int(self._usable_s / each[1]))
        self._decide(Decision(step, step, step + dpo, "turned"))
        self._due_s = math.inf

    @property
    def latest_s(self) -> float:
        """Seconds of the clock after which no step may end: saving what was learned has to fit in, too."""
        return LATEST * self._allowance_s - 2 * self._longest_s

    @property
    def _usable_s(self) -> float:
        meant_s = min(MEANT * self._allowance_s, self.latest_s)
        return max(0.0, meant_s - self._clock.spent_s)

    def _known(self, pace: Pace) -> bool:
        return pace.measured > PROBE_STEPS and pace.measured_s >= PROBE * self._allowance_s

    def _each(self) -> tuple[float, float] | None:
        """Seconds of a step of either stage, with its part of the checkpoints and probes; None before one is known."""
        sft_s, dpo_s = self._paces["sft"].each_s, self._paces["dpo"].each_s
        if sft_s is None and dpo_s is None:
            return None
        between = 1.0 + (self._between_s / self._stepping_s if self._stepping_s else 0.0)
        sft_s = sft_s or (dpo_s or 0.0) / DPO_TIMES
        least_s = 1e-9 * self._allowance_s
        return max(least_s, between * sft_s), max(least_s, between * (dpo_s or DPO_TIMES * sft_s))

    def _in_time(self, stage: StageName, step: int) -> bool:
        """Whether a decision is not due yet, or was made already by an earlier process and still holds."""
        if not self._pending:
            return self._usable_s > self._due_s
        each = self._each()
        assert each is not None
        last = self._pending[-1]
        sft = max(0, last.sft_steps - step)
        return sft * each[0] + (last.steps - step - sft) * each[1] <= self._usable_s + SMALL * self._allowance_s

    def _revise(self, stage: StageName, step: int) -> None:
        each = self._each()
        assert each is not None
        usable_s, now = self._usable_s, self.course.now
        self._due_s = min(AGAIN * usable_s, usable_s - SMALL * self._allowance_s)
        edge, steps = farthest(self.recipe, self.most, now, stage, step, usable_s, each)
        change_s = abs(steps - now.steps) * max(each)
        if self._pending or (change_s >= SMALL * self._allowance_s and (edge, steps) != (now.sft_steps, now.steps)):
            why: Why = "data" if steps >= self.most.steps else "pace"
            self._decide(Decision(step, min(edge, steps), steps, why))

    def _decide(self, decision: Decision) -> None:
        self._decisions.append(decision, self._clock.spent_s, self.course.now)
        self._pending = []
        self.course = self.course.after(decision)

    def _adopt(self, step: int) -> None:
        """Take again what an earlier process decided after this step; it is written down already."""
        while self._pending and self._pending[0].step <= step:
            self.course = self.course.after(self._pending.pop(0))


class Replayed:
    """The horizon of a run that is to be made again: the decisions of another one, whatever the clock says."""

    keeps_best = True

    def __init__(self, recipe: Recipe, most: Recipe, given: Sequence[Decision]) -> None:
        self.most, self.course, self._given = most, Course.of(recipe), tuple(given)

    def resume(self, decisions: Sequence[Decision], step: int) -> None:
        """Take the given decisions up to `step`."""
        self.made("sft", step)

    def begin_stage(self) -> None:
        """No time is measured."""

    def begin_step(self) -> None:
        """No time is measured."""

    def made(self, stage: StageName, step: int) -> None:
        """Take the decision that was made here, if one was."""
        self.course = Course(self.course.recipe, tuple(given for given in self._given if given.step <= step))

    def turned(self, stage: StageName, step: int) -> None:
        """It is among the given decisions."""
