"""What a recipe would score at the end of its horizon, by what the trials of a study have shown so far.

A Gaussian process over recipes: two trials agree as far as their recipes are near (Matern 5/2 with a length scale for
each parameter), and every trial has a share of luck of its own. What is observed of a trial is the logit of its score,
or what its last rung lets one expect of it, with the variance that this has. Half-trained trials so tell of finished
ones, as in Swersky, Snoek and Adams, Freeze-Thaw Bayesian Optimization (2014), without a model of their curves.

The process's few settings are found anew, by maximum a posteriori, for every decision: nothing is remembered, so
nothing can be lost. Pure functions of their arguments; imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

LEVEL_SD = 2.0  # logits: how far the level of all recipes together may lie from MEAN
MEAN = -0.5
BETWEEN, OWN = 1.5, 0.15  # variances in logits squared, a priori: between recipes, and a trial's own luck
SCALE = 0.5  # of the square root of the dimensions: a priori, two random recipes are about two length scales apart
SETTINGS_SD = (0.9, 0.6)  # of the logarithms of the length scales, and of the variances


@dataclass(frozen=True)
class Observations:
    """`x` (n, d): recipes in the unit cube; `y` (n,): logits of their shares; `noise` (n,): variances of those."""

    x: Array
    y: Array
    noise: Array


class Surrogate:
    """The posterior, given observations (at least one), one for each trial."""

    def __init__(self, seen: Observations) -> None:
        self._seen = seen
        theta = _fitted(seen)
        self._scales, (self._between, self._own) = np.exp(theta[:-2]), np.exp(theta[-2:])
        alike = self._between * _matern(_distances(seen.x, seen.x, self._scales)) + LEVEL_SD**2
        self._factor = cholesky(alike + np.diag(seen.noise + self._own), lower=True)
        self._weights = cho_solve((self._factor, True), seen.y - MEAN)

    def fresh(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the final logit of new trials with the recipes `x`, shape (m, d)."""
        return self._posterior(x, np.zeros((len(x), len(self._seen.y))))

    def of_trials(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the final logit of each trial observed."""
        return self._posterior(self._seen.x, np.eye(len(self._seen.y)))

    def _posterior(self, x: Array, same: Array) -> tuple[Array, Array]:
        cross = self._between * _matern(_distances(x, self._seen.x, self._scales)) + LEVEL_SD**2 + self._own * same
        mean = MEAN + cross @ self._weights
        inner = solve_triangular(self._factor, cross.T, lower=True)
        variance = self._between + self._own + LEVEL_SD**2 - (inner**2).sum(axis=0)
        return mean, np.sqrt(np.maximum(variance, 1e-9))


def _fitted(seen: Observations) -> Array:
    """The most probable logarithms of the length scales (d of them), the variance between recipes and that of luck."""
    d = seen.x.shape[1]
    mean = np.log([SCALE * np.sqrt(d)] * d + [BETWEEN, OWN])
    sd = np.array([SETTINGS_SD[0]] * d + [SETTINGS_SD[1]] * 2)
    within = list(zip(mean - 4 * sd, mean + 4 * sd, strict=True))
    options = {"maxiter": 40}
    found = minimize(_loss, mean, args=(seen, mean, sd), jac=True, method="L-BFGS-B", bounds=within, options=options)
    best: Array = found.x
    return best


def _loss(theta: Array, seen: Observations, mean: Array, sd: Array) -> tuple[float, Array]:
    """Minus the log posterior of the settings, and its gradient."""
    between, own = np.exp(theta[-2:])
    squares = (seen.x[:, None, :] - seen.x[None, :, :]) ** 2 * np.exp(-2 * theta[:-2])
    distance = np.sqrt(squares.sum(axis=-1))
    alike = between * _matern(distance)
    factor = cholesky(alike + LEVEL_SD**2 + np.diag(seen.noise + own), lower=True)
    weights = cho_solve((factor, True), seen.y - MEAN)
    off = (theta - mean) / sd
    loss = 0.5 * (seen.y - MEAN) @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
    outer = 0.5 * (cho_solve((factor, True), np.eye(len(weights))) - np.outer(weights, weights))
    root = np.sqrt(5) * distance
    slope = outer * between * (5 / 3) * (1 + root) * np.exp(-root)
    gradient = [*np.einsum("ij,ijk->k", slope, squares), (outer * alike).sum(), own * np.trace(outer)]
    return float(loss), np.array(gradient) + off / sd


def _distances(a: Array, b: Array, scales: Array) -> Array:
    a, b = a / scales, b / scales
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distances: Array = np.sqrt(np.maximum(squares, 0.0))
    return distances


def _matern(distance: Array) -> Array:
    root = np.sqrt(5) * distance
    correlation: Array = (1 + root + root**2 / 3) * np.exp(-root)
    return correlation
