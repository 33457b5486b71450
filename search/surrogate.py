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
DOUBT = 2.0  # standard deviation of how right a belief is, around 1: 0 is nothing in it, below 0 the opposite
BETWEEN, OWN = 1.5, 0.15  # variances in logits squared, a priori: between recipes, and a trial's own luck
SCALE = 0.5  # of the square root of the dimensions: a priori, two random recipes are about two length scales apart
SETTINGS_SD = (0.9, 0.6)  # of the logarithms of the length scales, and of the variances


@dataclass(frozen=True)
class Recipes:
    """`x` (n, d): in the unit cube; `promises` (n, k): logits that each of k beliefs gives them beforehand."""

    x: Array
    promises: Array

    @property
    def mean(self) -> Array:
        """What is believed of them."""
        mean: Array = MEAN + self.promises.sum(axis=1)
        return mean

    def together(self, others: Recipes) -> Array:
        """The covariance that comes of what all recipes have in common: their level, and how right each belief is."""
        covariance: Array = LEVEL_SD**2 + DOUBT**2 * self.promises @ others.promises.T
        return covariance


@dataclass(frozen=True)
class Observations:
    """`y` (n,): logits of the recipes' shares; `noise` (n,): variances of those."""

    recipes: Recipes
    y: Array
    noise: Array


class Surrogate:
    """The posterior, given observations (at least one), one for each trial."""

    def __init__(self, seen: Observations) -> None:
        self._seen = seen
        theta = _fitted(seen)
        self._scales, (self._between, self._own) = np.exp(theta[:-2]), np.exp(theta[-2:])
        self._factor = cholesky(self._alike(seen.recipes) + np.diag(seen.noise + self._own), lower=True)
        self._weights = cho_solve((self._factor, True), seen.y - seen.recipes.mean)

    def fresh(self, recipes: Recipes) -> tuple[Array, Array]:
        """Mean and standard deviation of the final logit of new trials with these recipes."""
        return self._posterior(recipes, np.zeros((len(recipes.x), len(self._seen.y))))

    def of_trials(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the final logit of each trial observed."""
        return self._posterior(self._seen.recipes, np.eye(len(self._seen.y)))

    def _alike(self, recipes: Recipes) -> Array:
        """The covariance of recipes with those seen, without a trial's own luck."""
        seen = self._seen.recipes
        alike: Array = self._between * _matern(_distances(recipes.x, seen.x, self._scales)) + recipes.together(seen)
        return alike

    def _posterior(self, recipes: Recipes, same: Array) -> tuple[Array, Array]:
        cross = self._alike(recipes) + self._own * same
        mean = recipes.mean + cross @ self._weights
        inner = solve_triangular(self._factor, cross.T, lower=True)
        before = self._between + self._own + LEVEL_SD**2 + DOUBT**2 * (recipes.promises**2).sum(axis=1)
        return mean, np.sqrt(np.maximum(before - (inner**2).sum(axis=0), 1e-9))


def _fitted(seen: Observations) -> Array:
    """The most probable logarithms of the length scales (d of them), the variance between recipes and that of luck."""
    d = seen.recipes.x.shape[1]
    mean = np.log([SCALE * np.sqrt(d)] * d + [BETWEEN, OWN])
    sd = np.array([SETTINGS_SD[0]] * d + [SETTINGS_SD[1]] * 2)
    within = list(zip(mean - 4 * sd, mean + 4 * sd, strict=True))
    options = {"maxiter": 40}
    found = minimize(_loss, mean, args=(seen, mean, sd), jac=True, method="L-BFGS-B", bounds=within, options=options)
    best: Array = found.x
    return best


def _loss(theta: Array, seen: Observations, mean: Array, sd: Array) -> tuple[float, Array]:
    """Minus the log posterior of the settings, and its gradient."""
    between, own, x = *np.exp(theta[-2:]), seen.recipes.x
    off_mean = seen.y - seen.recipes.mean
    squares = (x[:, None, :] - x[None, :, :]) ** 2 * np.exp(-2 * theta[:-2])
    distance = np.sqrt(squares.sum(axis=-1))
    alike = between * _matern(distance)
    factor = cholesky(alike + seen.recipes.together(seen.recipes) + np.diag(seen.noise + own), lower=True)
    weights = cho_solve((factor, True), off_mean)
    off = (theta - mean) / sd
    loss = 0.5 * off_mean @ weights + np.log(np.diag(factor)).sum() + 0.5 * off @ off
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
