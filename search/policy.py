"""What to do next with the GPU: a new recipe, or more of a trial that was stopped at a rung.

Every trial is judged by what it will probably score at the end (search.surrogate), from its recipe and its last rung.
A fixed share of all GPU-seconds goes to going on with trials beyond their first rung, the rest to new recipes up to it.
Of either kind, that is done which promises the largest expected improvement of the best score for each GPU-second that
it would take to the end of the trial. A trial that is running is stopped at a rung where something else comes first,
and *thawed*, from its checkpoint, once it is its turn again.

Everything here is a pure function of the study's records and of a seed. Seconds are planned ones: what a machine took
does not decide, so that a study that was interrupted goes on as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from search.parameters import Value
from search.points import Array, Params, Points
from search.surrogate import MEAN, Observations, Surrogate

DRAWN, NEIGHBOURS, LEADERS = 600, 60, 5  # recipes considered: at random; near each of the best trials
GOING_ON = 0.8  # of all seconds. Rungs say little of which good trial is the best: much lower finds less, measured
SLOPE, SLOPE_SD = 0.8, 0.4  # a priori: logits of the end's score for one standard deviation at a rung
RUNG_VARIANCE, RUNG_WEIGHT = 0.8, 4.0  # a priori: of a score around what its rung lets expect; worth so many trials
SIGMAS = np.linspace(-3.0, 3.0, 25)


@dataclass(frozen=True)
class Tried:
    """A trial so far.

    `bits` by fraction of the horizon. `score`: (share of prompts followed, prompts) at the end, None before it.
    `cost`: planned seconds of the whole trial. `thawable`: it was stopped at a rung, and can go on from there.
    """

    number: int
    params: Mapping[str, Value]
    bits: Mapping[float, float]
    score: tuple[float, int] | None
    cost: float
    thawable: bool = False

    @property
    def reached(self) -> float:
        """The fraction of the horizon that it was trained for."""
        return 1.0 if self.score else max(self.bits, default=0.0)

    @property
    def first(self) -> float:
        """Its first rung."""
        return min(self.bits, default=0.0)


@dataclass(frozen=True)
class Choice:
    """Either a new recipe, `params`, or more of the trial `thaw`; and what it promises: points a planned second."""

    params: Params | None
    thaw: int | None
    worth: float
    improvement: float


class Policy:
    """What the trials of a study say; they have seen at least one rung or one score."""

    def __init__(self, points: Points, tried: Sequence[Tried]) -> None:
        self._points = points
        self._tried = [trial for trial in tried if trial.bits or trial.score]
        self._y, self._noise = _expected(self._tried)
        self._places = np.array([points.places(trial.params) for trial in self._tried])
        self._surrogate = Surrogate(Observations(points.coordinates(self._places), self._y, self._noise))
        self._mean, self._sd = self._surrogate.of_trials()
        done = [m for m, trial in zip(self._mean, self._tried, strict=True) if trial.score]
        self._best = float(_share(np.array(max(done, default=MEAN - 1.0))))

    def next(self, seed: Sequence[int]) -> Choice:
        """The best thing to do: the thaw that promises most, or the new recipe that does."""
        thaws = [self._thaw(i) for i, trial in enumerate(self._tried) if trial.thawable]
        looking = sum(trial.cost * min(trial.reached, trial.first) for trial in self._tried)
        going_on = sum(trial.cost * max(0.0, trial.reached - trial.first) for trial in self._tried)
        if thaws and going_on < GOING_ON * (looking + going_on):
            return max(thaws, key=lambda choice: choice.worth)
        return self.new(seed)

    def new(self, seed: Sequence[int]) -> Choice:
        """The new recipe with the largest expected improvement."""
        rng = np.random.default_rng([*seed])
        leaders = np.argsort(-self._mean, kind="stable")[:LEADERS]
        near = [self._points.near(self._places[i], NEIGHBOURS, rng) for i in leaders]
        pool = np.concatenate([self._points.draw(DRAWN, rng), *near])
        gain = _improvement(*self._surrogate.fresh(self._points.coordinates(pool)), self._best)
        known = [trial.params for trial in self._tried]
        found = ((i, self._points.params(pool[i])) for i in np.argsort(-gain, kind="stable"))
        i, params = next((i, params) for i, params in found if params not in known)
        cost = float(np.mean([trial.cost for trial in self._tried]))
        return Choice(params, None, float(gain[i]) / cost, float(gain[i]))

    def _thaw(self, i: int) -> Choice:
        trial = self._tried[i]
        gain = float(_improvement(self._mean[i : i + 1], self._sd[i : i + 1], self._best)[0])
        return Choice(None, trial.number, gain / ((1.0 - trial.reached) * trial.cost), gain)


def _expected(tried: Sequence[Tried]) -> tuple[Array, Array]:
    """Of each trial: the logit of its score, or of the one to expect after its last rung; and the variance of that."""
    y, noise = np.zeros(len(tried)), np.zeros(len(tried))
    for i, trial in enumerate(tried):
        if trial.score:
            y[i], noise[i] = _logit(*trial.score)
    for fraction in sorted({f for trial in tried if not trial.score for f in [trial.reached]}):
        here = [i for i, trial in enumerate(tried) if fraction in trial.bits]
        signal = dict(zip(here, _standardized([-np.log(tried[i].bits[fraction]) for i in here]), strict=True))
        done = [i for i in here if tried[i].score]
        level, slope, variance = _line(np.array([signal[i] for i in done]), y[done])
        for i in here:
            if not tried[i].score and tried[i].reached == fraction:
                y[i], noise[i] = level + slope * signal[i], variance
    return y, noise


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Level, slope and residual variance of the scores `y` over the rungs' signals `x`, with priors for few points."""
    prior = np.array([MEAN, SLOPE])
    precision = np.diag([1.0, 1.0 / SLOPE_SD**2])
    design = np.column_stack([np.ones(len(x)), x])
    inner = precision + design.T @ design / RUNG_VARIANCE
    level, slope = np.linalg.solve(inner, precision @ prior + design.T @ y / RUNG_VARIANCE)
    rest = y - level - slope * x
    variance = (RUNG_WEIGHT * RUNG_VARIANCE + rest @ rest) / (RUNG_WEIGHT + len(x))
    return float(level), float(slope), float(variance)


def _standardized(values: Sequence[float]) -> Array:
    """Around the median, in units of the spread of the middle half; within three of them, as diverged trials are not
    to say how large one is."""
    array = np.array(values)
    low, middle, high = np.quantile(array, [0.25, 0.5, 0.75])
    clipped: Array = np.clip((array - middle) / max((high - low) / 1.35, 1e-6), -3.0, 3.0)
    return clipped


def _improvement(mean: Array, sd: Array, best: float) -> Array:
    """Expected improvement over `best`, in shares, of what is normal in logits."""
    weights = np.diff(ndtr(np.concatenate([[-np.inf], (SIGMAS[1:] + SIGMAS[:-1]) / 2, [np.inf]])))
    shares = _share(mean[:, None] + sd[:, None] * SIGMAS[None, :])
    improvement: Array = np.maximum(shares - best, 0.0) @ weights
    return improvement


def _logit(share: float, prompts: int) -> tuple[float, float]:
    """The logit of a share and its variance, both finite."""
    followed, not_followed = share * prompts + 0.5, (1.0 - share) * prompts + 0.5
    return float(np.log(followed / not_followed)), 1.0 / followed + 1.0 / not_followed


def _share(logit: Array) -> Array:
    share: Array = 1.0 / (1.0 + np.exp(-logit))
    return share
