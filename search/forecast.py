"""How a study will go on: how many trials still fit, and how good the best one will be. Pure but for `keep` and `kept`.

    fitting(Typical.of([310.0, 290.0, 120.0]), left_s=3600.0)      # Count(trials=15, sd=4.7)
    final([Scored(0.52, 0.06), ...], to_come=14, share=0.6)        # Final(value=0.61, sd=0.03)

The count is a renewal process's: in t seconds t/m + (c^2 - 1)/2 trials of m seconds and coefficient of variation c end
on average, with the variance t/m c^2 (Cox, Renewal Theory, 1962); that m is known from few trials, and moves as the
search does, comes on top (benchmarks/nights.py). The final value is the largest of what there is and what is to come,
each shrunk towards the mean by what its own error explains of the spread (empirical Bayes), which undoes the winner's
curse.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from search import onlookers

FILE = "costs.json"
ENOUGH = 5  # ended trials from which their own seconds count, and a final value is told
RECENT = 20  # trials that show how good the next ones will be
RECENT_COSTS = 40  # trials that show what the next ones will cost: fewer foretell worse, on replayed nights
ALIKE = 4.0  # trials that tell as much of the mean as one apart from others: a search tries like recipes in a row
DRIFT = 0.25  # of the costs' spread: how far the next trials' mean lies from that of those; the search moves on
AIMED = 0.2  # of the mean of random recipes: how far that of the ones that a search picks, and stops, lies from it
SHARED = 0.5  # of a score's variance that all trials have in common, since they answer the same prompts
SMOOTH = (
    0.75  # of the scores' spread: how far the next ones lie from those seen; chosen on a landscape of random recipes
)
GRID = 400
Distribution = Callable[[float], float]


@dataclass(frozen=True)
class Typical:
    """A trial's seconds: their mean, how much trials differ, and how unsure the mean is; both relative to it."""

    seconds: float
    spread: float
    unsure: float

    @classmethod
    def of(cls, costs_s: Sequence[float]) -> Self:
        """Of the newest of these trials."""
        newest = costs_s[-RECENT_COSTS:]
        mean = statistics.fmean(newest)
        spread = statistics.stdev(newest) / mean if len(newest) > 1 and mean else 1.0
        return cls(mean, spread, spread * math.hypot(math.sqrt(ALIKE / len(newest)), DRIFT))

    @classmethod
    def planned(cls, costs_s: Sequence[float], unsure: float) -> Self:
        """Of recipes drawn at random, whose seconds are known but for a factor this `unsure`."""
        mean = statistics.fmean(costs_s)
        return cls(mean, statistics.pstdev(costs_s) / mean, math.hypot(unsure, AIMED))


@dataclass(frozen=True)
class Count:
    """Trials that will still end, and the standard deviation of their number."""

    trials: int
    sd: float

    def __str__(self) -> str:
        return f"{self.trials} ± {math.ceil(self.sd - 0.5)}" if self.sd >= 0.5 else str(self.trials)


@dataclass(frozen=True)
class Scored:
    """A score with its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Final:
    """What the study's best recipe will score on fresh prompts, with a standard deviation."""

    value: float
    sd: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Forecast:
    """What to expect: how many trials still fit in the budget, or `tonight`, where the deadline comes before that, and
    how good the best one will be once the budget is spent."""

    count: Count
    tonight: bool
    final: Final | None

    def __str__(self) -> str:
        """`tonight fits 14 ± 2 more trials; the study will probably end at 0.61 ± 0.03`."""
        what = "trial" if str(self.count) == "1" else "trials"
        fits = f"{'tonight' if self.tonight else 'the budget'} fits {self.count} more {what}"
        return f"{fits}; the study will probably end at {self.final}" if self.final else fits


def fitting(typical: Typical, left_s: float, wanted: int | None = None, running_s: float = 0.0) -> Count:
    """How many trials end within `left_s`, the running one included, which has had `running_s` already.

    Never more than are `wanted`.
    """
    if left_s <= 0 or typical.seconds <= 0:
        return Count(0, 0.0)
    ahead = (left_s + min(running_s, typical.seconds)) / typical.seconds
    mean = max(0.0, ahead + (typical.spread**2 - 1) / 2)
    sd = math.sqrt(ahead * typical.spread**2 + (ahead * typical.unsure) ** 2)
    if wanted is not None and mean >= wanted:
        return Count(wanted, 0.0 if mean - sd >= wanted else min(sd, wanted))
    return Count(round(mean), min(sd, max(1.0, mean)))


def final(scored: Sequence[Scored], to_come: int, share: float = 1.0) -> Final | None:
    """The best value once `to_come` more trials ended, of which a `share` is scored; None before ENOUGH are scored.

    `scored` are all trials with a whole score, oldest first.
    """
    return _final(tuple(scored), to_come, share) if len(scored) >= ENOUGH else None


@functools.lru_cache(maxsize=4)  # asked at every look at a study, and seldom anew
def _final(scored: tuple[Scored, ...], to_come: int, share: float) -> Final:
    means, noise = _shrunk(scored)
    best = max(means)
    recent = means[-RECENT:]
    smooth = max(1e-6, SMOOTH * statistics.pstdev(recent))
    draws = max(0.0, to_come * share)

    def below(x: float) -> float:
        """The probability that the largest is below x."""
        others = statistics.fmean(_normal((x - mean) / smooth) for mean in recent)
        return 0.0 if x < best else others**draws

    value, sd = _moments(below, best, max(means) + 6 * smooth)
    shared = SHARED * statistics.fmean(each.standard_error**2 for each in scored)
    scale = (1 - below(best)) * (value - statistics.fmean(recent)) ** 2 / (2 * len(recent))  # it is known from few, too
    return Final(min(1.0, value), math.sqrt(sd**2 + noise**2 + shared + scale))


def _shrunk(scored: Sequence[Scored]) -> tuple[list[float], float]:
    """What each is expected to be on fresh prompts, and the standard deviation of that."""
    values = [each.value for each in scored]
    error = (1 - SHARED) * statistics.fmean(each.standard_error**2 for each in scored)
    spread = statistics.variance(values)
    true = max(spread - error, 0.1 * spread, 1e-12)
    kept, mean = true / (true + error), statistics.fmean(values)
    return [mean + kept * (value - mean) for value in values], math.sqrt(kept * error)


def _moments(below: Distribution, low: float, high: float) -> tuple[float, float]:
    """Mean and standard deviation of a distribution on [low, high], which may have a jump at its low end."""
    width = (high - low) / GRID
    tails = [1 - below(low + width * (n + 0.5)) for n in range(GRID)]
    above = width * sum(tails)
    square = 2 * width * sum(tail * width * (n + 0.5) for n, tail in enumerate(tails))
    return low + above, math.sqrt(max(0.0, square - above**2))


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def of_study(
    costs_s: Sequence[float],
    planned: Typical | None,
    scored: Sequence[Scored],
    *,
    wanted: int,
    unspent_s: float,
    deadline_s: float | None = None,
    running_s: float = 0.0,
    load_s: float = 0.0,
) -> Forecast | None:
    """What to expect of a study whose ended trials took `costs_s`, pruned ones included, oldest first.

    `wanted` trials are still to come. Until ENOUGH have ended, their number goes by what is `planned`; None where
    nothing is. `load_s` go to loading the base model first.
    """
    unspent_s, deadline_s = unspent_s - load_s, None if deadline_s is None else deadline_s - load_s
    typical = Typical.of(costs_s) if len(costs_s) >= ENOUGH else planned
    if typical is None or wanted <= 0:
        return None
    tonight = deadline_s is not None and deadline_s < unspent_s
    all_count = fitting(typical, unspent_s, wanted, running_s)
    count = fitting(typical, deadline_s, wanted, running_s) if tonight and deadline_s is not None else all_count
    share = len(scored[-RECENT:]) / max(1, len(costs_s[-RECENT:]))
    return Forecast(count, tonight, final(scored, all_count.trials, min(1.0, share)))


@dataclass(frozen=True)
class Expected:
    """What is known beside the trials that ended: what the plan, as corrected so far, says of one; the seconds of the
    budget that no trial gets; and those that the loading of the base model will take, where it is not loaded yet."""

    trial: Typical | None = None
    kept_s: float = 0.0
    load_s: float = 0.0


def keep(folder: Path, expected: Expected) -> None:
    """Leave it for `status`."""
    onlookers.keep(folder / FILE, asdict(expected))


def kept(folder: Path) -> Expected:
    """What `keep` left; nothing of another version's."""
    found = onlookers.kept(folder / FILE)
    try:
        return Expected(**{**found, "trial": Typical(**found["trial"]) if found["trial"] else None})
    except (KeyError, TypeError):
        return Expected()
