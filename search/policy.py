"""Which recipe to try next: the one whose expected improvement on the best is largest.

Every trial is judged by what it will probably score at the end (search.surrogate), from its recipe and from its score
or, where it was stopped at a rung, from its last rung. What is believed of recipes beforehand (search.beliefs) is where
that starts from, and decides alone before the first trial has shown anything. Everything here is a pure function of the
study's records and of a seed, so that a study that was interrupted goes on as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from search.beliefs import promises
from search.parameters import Value
from search.points import Array, Params, Points
from search.surrogate import MEAN, Observations, Recipes, Surrogate
from search.tried import Tried

DRAWN, NEIGHBOURS, LEADERS = 600, 60, 5  # recipes considered: at random; near each of the best trials
SLOPE, SLOPE_SD = 0.8, 0.4  # a priori: logits of the end's score for one standard deviation at a rung
RUNG_VARIANCE, RUNG_WEIGHT = 0.8, 4.0  # a priori: of a score around what its rung lets expect; worth so many trials
SIGMAS = np.linspace(-3.0, 3.0, 25)
NEWEST, BEST = 80, 40  # trials that are reckoned with, at most: more are seconds, and tell little more
Fits = Callable[[Params], bool]


class Policy:
    """What the trials of a study say; at least one has seen a rung or a score."""

    def __init__(self, points: Points, tried: Sequence[Tried]) -> None:
        self._points = points
        self._known = [trial.params for trial in tried]
        self._tried = _telling(tried)
        self._places = np.array([points.places(trial.params) for trial in self._tried])
        self._surrogate = Surrogate(Observations(_recipes(points, self._places), *_expected(self._tried)))
        self._mean, _ = self._surrogate.of_trials()
        self._best = max(self.expected().values(), default=float(_share(np.array(MEAN - 1.0))))

    def expected(self) -> dict[int, float]:
        """By the number of each trial that has a score: the share of prompts to expect of it, were it scored again."""
        shares = _share(self._mean)
        return {trial.number: float(s) for trial, s in zip(self._tried, shares, strict=True) if trial.score}

    def new(self, seed: Sequence[int], fixed: Mapping[str, Value], fits: Fits = lambda _: True) -> Params:
        """The recipe with the largest expected improvement among those that fit and were not tried.

        `fixed` are parameters that it has to have. Where none of those considered will do, the most promising of all.
        """
        rng = np.random.default_rng([*seed])
        leaders = np.argsort(-self._mean, kind="stable")[:LEADERS]
        near = [self._points.near(self._places[i], NEIGHBOURS, rng) for i in leaders]
        pool = self._points.with_fixed(np.concatenate([self._points.draw(DRAWN, rng), *near]), fixed)
        gain = _improvement(*self._surrogate.fresh(_recipes(self._points, pool)), self._best)
        return _first(self._points, pool[np.argsort(-gain, kind="stable")], self._known, fits)


def believed(points: Points, seed: Sequence[int], fixed: Mapping[str, Value], fits: Fits = lambda _: True) -> Params:
    """Where no trial has shown anything: of recipes at random, the one that promises most among those that fit."""
    pool = points.with_fixed(points.draw(DRAWN, np.random.default_rng([*seed])), fixed)
    return _first(points, pool[np.argsort(-promises(points, pool).sum(axis=1), kind="stable")], [], fits)


def _recipes(points: Points, places: Array) -> Recipes:
    return Recipes(points.coordinates(places), promises(points, places))


def _first(points: Points, ordered: Array, known: Sequence[Mapping[str, Value]], fits: Fits) -> Params:
    """The first that fits and is not known; where there is none, the first of all."""
    found = (points.params(places) for places in ordered)  # one by one: mostly the first will do
    return next((params for params in found if params not in known and fits(params)), points.params(ordered[0]))


def _telling(tried: Sequence[Tried]) -> list[Tried]:
    """Those that a rung or a score tells something of; of many, the newest and the best."""
    found = [trial for trial in tried if trial.tells]
    if len(found) <= NEWEST + BEST:
        return found
    older = sorted(found[:-NEWEST], key=lambda trial: (-trial.score[0] if trial.score else 0.0, trial.number))[:BEST]
    return sorted(older, key=lambda trial: trial.number) + found[-NEWEST:]


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
