"""The final race: which of a study's best trials is best, on prompts that had no part in finding them. Pure.

    run([Finalist(7, score, fresh=(True, False, ...)), Finalist(3, ...)], stages=(20, 40, 60, 80), prompts=80)
    # Race(next=Turn(trial=3, begin=20, end=40), ...): trial 3 answers next. Once next is None, `winner` is the trial

The best of many scores is best partly by luck. The finalists therefore answer fresh prompts: those of the search half
outside the reference set, all the same ones in the same order, stage by stage. After each stage, one that is clearly
behind another is out (`objectives.race` has the test: exact, and corrected for looking many times). The race is over
when one is left or the prompts are. Who wins follows from the verdicts and from nothing else, so that a race that was
interrupted, or that meets answers of an earlier one, comes to the same end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from objectives.race import Race as Test
from objectives.score import Measure

ERROR_RATE = 0.1  # how often, at most, the one that is truly best is put out as behind
LOOKS = 4  # stages, about
LEAST = 8  # prompts of a stage: each costs a process the loading of an adapter


def stages(prompts: int, batch_size: int) -> tuple[int, ...]:
    """After how many of so many fresh prompts the finalists are compared; whole batches where those are small."""
    if not prompts:
        return ()
    size = max(LEAST, math.ceil(prompts / LOOKS))
    if batch_size < size:
        size = batch_size * math.ceil(size / batch_size)
    return (*range(size, prompts, size), prompts)


@dataclass(frozen=True)
class Finalist:
    """A trial that races: its score on the reference set, and whether it followed each fresh prompt so far, in their
    order. `failed` says why it could not be asked."""

    trial: int
    score: Measure
    fresh: tuple[bool, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class Turn:
    """A trial that is to answer the fresh prompts from `begin` on, up to `end`."""

    trial: int
    begin: int
    end: int


@dataclass(frozen=True)
class Runner:
    """How a finalist stands. `fresh` is its score on the fresh prompts that it was asked, None before any; `out` says
    why it is out, where it is."""

    trial: int
    score: Measure
    fresh: Measure | None
    out: str = ""


@dataclass(frozen=True)
class Race:
    """A race, as far as it came. `prompts` are all the fresh ones there are; `asked` those that all who are in have
    answered. It is decided once `next` is None: there is a `winner` then, unless none could be asked."""

    runners: tuple[Runner, ...]
    prompts: int
    asked: int
    next: Turn | None
    winner: int | None

    @property
    def fresh(self) -> Measure | None:
        """The winner's score on fresh prompts."""
        return next((runner.fresh for runner in self.runners if runner.trial == self.winner), None)

    @property
    def to_come(self) -> float:
        """The share of it that may still come."""
        return 1 - self.asked / self.prompts if self.next else 0.0

    @property
    def brief(self) -> str:
        """How it ended, if it did, without figures."""
        if self.next:
            return "the final race is not over"
        return "the final race has no winner" if self.winner is None else f"trial {self.winner} won the final race"

    def __str__(self) -> str:
        """In a sentence without its end: `trial 7 won the final race of 3: 0.725 ± 0.050 on 80 fresh prompts`."""
        alone = len(self.runners) == 1
        who = "the final race" if alone else f"the final race of {len(self.runners)}"
        if self.next:
            return f"{who} is not over: {self.asked} of {self.prompts} fresh prompts asked"
        if self.winner is None or self.fresh is None:
            return f"{who} has no winner: none could be asked"
        return f"trial {self.winner} won {who}{', alone' * alone}: {self.fresh} on {self.fresh.n} fresh prompts"


def run(finalists: Sequence[Finalist], stages: Sequence[int], prompts: int) -> Race:
    """How the race of these stands by their verdicts; the better one comes first."""
    runners = {each.trial: Runner(each.trial, each.score, _measure(each.fresh), each.failed) for each in finalists}
    going = [each for each in finalists if not each.failed]
    racing, asked = len(going), 0

    def race(turn: Turn | None) -> Race:
        winner = None if turn or not going else max(going, key=lambda one: _followed(one, asked)).trial
        return Race(tuple(runners.values()), prompts, asked, turn, winner)

    for end in stages:
        if len(going) < min(2, racing) or not going:  # who races alone answers all, for the score
            break
        if waiting := next((one for one in going if len(one.fresh) < end), None):
            return race(Turn(waiting.trial, asked, end))
        asked = end
        test = Test(stages=tuple(stages), error_rate=ERROR_RATE / max(1, racing - 1))
        behind = {one.trial: ahead for one in going if (ahead := _ahead(one, going, test, asked)) is not None}
        for trial, ahead in behind.items():
            runners[trial] = replace(runners[trial], out=f"behind trial {ahead} after {asked} prompts")
        going = [one for one in going if one.trial not in behind]
    return race(None)


def _followed(one: Finalist, asked: int) -> tuple[int, float, int]:
    """What decides between those that nothing told apart: the fresh prompts followed; of equals, the score that they
    were picked for, then the older trial.

    To count both sets of prompts was no better on replayed nights (docs/search-choices.md): among those that were
    picked for the first one, it tells little, and the second alone is what their scores are told on.
    """
    return sum(one.fresh[:asked]), one.score.value, -one.trial


def _ahead(one: Finalist, going: Sequence[Finalist], test: Test, asked: int) -> int | None:
    """The trial that this one is clearly behind, if there is one."""
    for other in going:
        pairs = zip(one.fresh[:asked], other.fresh[:asked], strict=True)
        if other is not one and test.behind([int(own) - int(theirs) for own, theirs in pairs]):
            return other.trial
    return None


def _measure(fresh: Sequence[bool]) -> Measure | None:
    return Measure.of(list(fresh)) if fresh else None
