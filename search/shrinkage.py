"""A linear correction learned from few, partly odd points: Bayesian regression with priors around 0. Pure, no NumPy.

Coefficients are normal around 0 with standard deviations of their own; errors have heavy tails (Student's t with
DEGREES degrees of freedom, by iteratively reweighted least squares: Lange, Little and Taylor 1989), so that one point
that somebody else's work made slow moves little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEGREES = 4.0
BELIEF = 4.0  # points that the assumed noise is worth
ROUNDS = 5
Vector = Sequence[float]


@dataclass(frozen=True)
class Correction:
    """What was learned: coefficients, their covariance, and the standard deviation of what they leave unexplained."""

    means: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float

    def at(self, features: Vector) -> tuple[float, float]:
        """Mean and standard deviation of a new point with these features, its own noise included."""
        spread = _dot([_dot(row, features) for row in self.covariance], features)
        return _dot(self.means, features), math.sqrt(max(0.0, spread) + self.noise**2)


def learn(rows: Sequence[Vector], wanted: Vector, prior_sd: Vector, noise: float) -> Correction:
    """Coefficients that explain `wanted` by the features in `rows`; without points, 0 and what was believed.

    `prior_sd` has one standard deviation above 0 for each feature; `noise` is what to assume of the errors at first.
    """
    believed = noise
    means, covariance = _solve(rows, wanted, [1.0] * len(rows), prior_sd, noise)
    for _ in range(ROUNDS if rows else 0):
        errors = [value - _dot(means, row) for row, value in zip(rows, wanted, strict=True)]
        weights = [(DEGREES + 1) / (DEGREES + (error / noise) ** 2) for error in errors]
        explained = sum(weight * error**2 for weight, error in zip(weights, errors, strict=True))
        noise = math.sqrt((BELIEF * believed**2 + explained) / (BELIEF + len(rows)))
        means, covariance = _solve(rows, wanted, weights, prior_sd, noise)
    return Correction(tuple(means), tuple(map(tuple, covariance)), noise)


def _solve(
    rows: Sequence[Vector], wanted: Vector, weights: Vector, prior_sd: Vector, noise: float
) -> tuple[list[float], list[list[float]]]:
    """The coefficients' posterior mean and covariance where noise and weights are known."""
    columns = list(zip(*rows, strict=True)) or [()] * len(prior_sd)
    scaled = [[weight * value / noise**2 for weight, value in zip(weights, column, strict=True)] for column in columns]
    precision = [[0.0] * len(columns) for _ in columns]
    for i, sd in enumerate(prior_sd):
        for j in range(i + 1):
            precision[i][j] = precision[j][i] = _dot(scaled[i], columns[j])
        precision[i][i] += 1 / sd**2
    covariance = _inverse(precision)
    right = [_dot(column, wanted) for column in scaled]
    return [_dot(row, right) for row in covariance], covariance


def _inverse(matrix: Sequence[Vector]) -> list[list[float]]:
    """The inverse of a positive definite matrix, by Gauss and Jordan."""
    size = len(matrix)
    wide = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = wide[i][i]
        wide[i] = [value / pivot for value in wide[i]]
        for k in range(size):
            factor = wide[k][i] if k != i else 0.0
            if factor:
                wide[k] = [value - factor * own for value, own in zip(wide[k], wide[i], strict=True)]
    return [row[size:] for row in wide]


def _dot(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
