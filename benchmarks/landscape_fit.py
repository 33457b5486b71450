"""What the replay landscapes are fitted with: recipes as points, abilities of verdicts, Gaussian processes on both.

An ability is the theta of a two-parameter item response model (Birnbaum 1968): the probability that a model follows
prompt j is sigmoid(a_j * theta - d_j), with a_j and d_j the prompt's own. One number then stands for 288 verdicts, and
gives them back with the noise that they have.

A Gaussian process (Rasmussen and Williams 2006, chapters 2, 4 and 5) has a Matern-5/2 kernel with a length for each
coordinate, a linear one, and noise. A function drawn from its posterior is made by Matheron's rule (Wilson et al. 2020,
arXiv 2002.09309): a draw of the prior in random features, moved to where the data are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize
from scipy.special import expit, ndtr

from search.parameters import Value

Array = np.ndarray
TARGETS = ("all-linear", "attention", "attention-qv", "mlp")
SCHEDULES = ("cosine", "linear", "constant")
EXAMPLES = 1600  # of a rehearsal's trial
KNOTS = np.array([-6, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 6])  # normal scores between which a warp is straight
PLAIN = 0.2  # share of a straight line in a warp, so that values that hardly differ do not get far apart
FEATURES = 256  # random features of a draw of the prior
THETA_SD, LOG_A_SD, D_SD = 2.0, 0.7, 4.0  # priors of the item response model
VARIANCES = (-0.5, -1.5, -2.0)  # where the logarithms of the variances start, by that of the values
LENGTH, LENGTH_SD = math.log(2.5), 1.0  # prior of a length's logarithm; coordinates are about -1 to 1


def encode(params: Mapping[str, Value]) -> Array:
    """A recipe of the rehearsal space as a point, each coordinate about -1 to 1.

    Besides the parameters, it has what they amount to together: the distance that the weights may go, which is
    learning rate times alpha_ratio times steps times the schedule's mean, and its first quarter.
    """
    number = {name: float(value) for name, value in params.items() if not isinstance(value, str)}
    rate, ratio, rank = math.log(number["learning_rate"]), math.log(number["alpha_ratio"]), math.log2(number["rank"])
    steps = EXAMPLES / number["batch_size"]
    schedule, targets = str(params["schedule"]), str(params["targets"])
    whole, early = (_area(schedule, number["warmup"], end) for end in (1.0, 0.25))
    distance = rate + ratio + math.log(steps * whole)
    dpo = number["dpo_share"] > 0
    return np.array(
        [
            (rate - math.log(3e-3)) / 2.3,
            (rank - 2.5) / 1.5,
            ratio / math.log(4) - 0.25,
            number["dropout"] * 10 - 1,
            math.log2(number["batch_size"] / 16),
            number["warmup"] / 0.15 - 1,
            number["rows"] / 900 - 1.22,
            (number["max_length"] - 80) / 16,
            2 * number["weight.noisy"] - 1,
            *(2 * (targets == name) - 1 for name in TARGETS),
            *(2 * (schedule == name) - 1 for name in SCHEDULES),
            2 * dpo - 1,
            math.log(number["dpo_beta"] / 0.158) / 1.15 if dpo else 0.0,
            math.log(number["dpo_learning_rate"] / 1e-3) / 2.3 if dpo else 0.0,
            (distance + 1.5) / 3,
            (distance + math.log(early / whole) + 3.5) / 3,
            (rate + 0.5 * ratio - 0.5 * math.log(steps / 100) + 5.8) / 2.5,
        ]
    )


def _area(schedule: str, warmup: float, end: float) -> float:
    """The schedule's factor summed from the beginning to `end`, both as fractions of the horizon."""
    at = (np.arange(200) + 0.5) / 200 * end
    left = (1 - at) / (1 - warmup)
    falling = {"constant": np.ones_like(at), "linear": left, "cosine": (1 - np.cos(np.pi * left)) / 2}[schedule]
    return float(np.where(at < warmup, at / max(warmup, 1e-9), falling).mean() * end)


@dataclass(frozen=True)
class Items:
    """The prompts of an item response model: slopes and intercepts, one a prompt."""

    a: Array
    d: Array

    def probability(self, theta: Array | float) -> Array:
        """That each prompt is followed, by ability: of shape (abilities, prompts), or (prompts,) for one."""
        return np.asarray(expit(np.multiply.outer(np.asarray(theta), self.a) - self.d))

    def noise(self, theta: Array, asked: Array) -> Array:
        """The variance of the estimate of each ability that comes of which prompts luck was with; `asked`: a mask."""
        p = self.probability(theta)
        told = (asked * self.a**2 * p * (1 - p)).sum(axis=1)
        return np.asarray(told / (told + THETA_SD**-2) ** 2)


def abilities(verdicts: Array) -> tuple[Array, Items]:
    """Ability of each row of verdicts (1, 0, NaN where not asked) and the prompts: the largest posterior."""
    known, followed = ~np.isnan(verdicts), np.nan_to_num(verdicts)
    rows, prompts = verdicts.shape
    share = followed.sum(axis=1) / known.sum(axis=1)
    start = np.concatenate([4 * share - 1.5, np.zeros(prompts), np.zeros(prompts)])

    def loss(x: Array) -> tuple[float, Array]:
        theta, log_a, d = np.split(x, [rows, rows + prompts])
        a = np.exp(log_a)
        z = np.outer(theta, a) - d
        missed = np.where(known, followed - expit(z), 0.0)
        likely = np.where(known, followed * z - np.logaddexp(0, z), 0.0).sum()
        prior = [theta / THETA_SD, log_a / LOG_A_SD, d / D_SD]
        slope = np.concatenate([missed @ a, a * (theta @ missed), -missed.sum(axis=0)])
        pull = np.concatenate([theta / THETA_SD**2, log_a / LOG_A_SD**2, d / D_SD**2])
        return float(sum((p**2).sum() for p in prior) / 2 - likely), pull - slope

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 400})
    theta, log_a, d = np.split(found.x, [rows, rows + prompts])
    return theta, Items(np.exp(log_a), d)


@dataclass(frozen=True)
class Warp:
    """Maps values to normal scores and back, straight from knot to knot: what is drawn has the spread of the table.

    `levels` (k, knots) are the values of k numbers at KNOTS. Beyond the table's own, they go on as at its end.
    """

    levels: Array

    @classmethod
    def of(cls, values: Array) -> Warp:
        """Of values (n, k)."""
        inner = np.quantile(values, ndtr(KNOTS[1:-1]), axis=0)
        far, step = KNOTS[-1] - KNOTS[-2], KNOTS[-2] - KNOTS[-4]
        ends = [inner[0] - far / step * (inner[2] - inner[0]), inner[-1] + far / step * (inner[-1] - inner[-3])]
        plain = values.mean(axis=0) + KNOTS[:, None] * values.std(axis=0)
        return cls((PLAIN * plain + (1 - PLAIN) * np.vstack([ends[0], inner, ends[1]])).T)

    def scores(self, values: Array) -> Array:
        """Of values (..., k)."""
        columns = [np.interp(values[..., n], level, KNOTS) for n, level in enumerate(self.levels)]
        return np.stack(columns, axis=-1)

    def values(self, scores: Array) -> Array:
        """Of scores (..., k)."""
        columns = [np.interp(scores[..., n], KNOTS, level) for n, level in enumerate(self.levels)]
        return np.stack(columns, axis=-1)


@dataclass(frozen=True)
class Process:
    """A Gaussian process fitted to values of mean 0 at `points`.

    `weights` are the inverse squared lengths; the variances are of the Matern part, the linear part and the noise.
    """

    points: Array
    values: Array
    weights: Array
    smooth: float
    linear: float
    noise: float

    @classmethod
    def fitted(cls, points: Array, values: Array) -> Process:
        """The one with the largest posterior of its parameters; the lengths' prior is wide."""
        n, d = points.shape
        squares = ((points[:, None, :] - points[None, :, :]) ** 2).reshape(n * n, d).T.copy()
        scale = float(values.var()) or 1.0  # of values that are all the same, too

        def loss(x: Array) -> tuple[float, Array]:
            weights, (smooth, linear, noise) = np.exp(-2 * x[:d]), scale * np.exp(x[d:])
            matern, slope = _matern((weights @ squares).reshape(n, n))
            flat = (points @ points.T + 1) / d
            kernel = smooth * matern + linear * flat
            root = cholesky(kernel + noise * np.eye(n), lower=True)
            inverse = cho_solve((root, True), np.eye(n))
            solved = inverse @ values
            fit = 0.5 * values @ solved + np.log(np.diag(root)).sum()
            g = 0.5 * (inverse - np.outer(solved, solved))
            of_lengths = squares @ (g * smooth * slope).ravel() * weights * -2
            of_rest = [smooth * (g * matern).sum(), linear * (g * flat).sum(), noise * np.trace(g)]
            gone, rest = (x[:d] - LENGTH) / LENGTH_SD, (x[d:] - np.array(VARIANCES)) / 2
            pull = np.concatenate([gone / LENGTH_SD, rest / 2])
            return float(fit + (gone**2).sum() / 2 + (rest**2).sum() / 2), np.concatenate([of_lengths, of_rest]) + pull

        start = np.concatenate([np.full(d, LENGTH), VARIANCES])
        bounds = [(-2.0, 5.0)] * d + [(-6.0, 3.0), (-9.0, 3.0), (-7.0, 1.0)]
        x = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x
        return cls(points, values, np.exp(-2 * x[:d]), *(float(v) for v in scale * np.exp(x[d:])))

    def kernel(self, left: Array, right: Array) -> Array:
        """Covariances of the function, noise apart."""
        a, b = left * np.sqrt(self.weights), right * np.sqrt(self.weights)
        squared = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
        return np.asarray(self.smooth * _matern(squared)[0] + self.linear * (left @ right.T + 1) / left.shape[1])

    @cached_property
    def inverse(self) -> Array:
        """(K + noise)^-1."""
        kernel = self.kernel(self.points, self.points) + self.noise * np.eye(len(self.points))
        return np.asarray(np.linalg.inv(kernel))

    def left_out(self) -> Array:
        """What the process says of each of its points from all others (equation 5.12 of the book)."""
        return np.asarray(self.values - self.inverse @ self.values / np.diag(self.inverse))

    def calibration(self) -> float:
        """Mean squared error of `left_out`, each over the variance that the process claims for it; 1 is honest."""
        return float(np.mean((self.inverse @ self.values) ** 2 / np.diag(self.inverse)))


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matern-5/2 of squared distances, and its derivative by them."""
    r = np.sqrt(5 * squared)
    fall = np.exp(-r)
    return (1 + r + r**2 / 3) * fall, -5 / 6 * (1 + r) * fall


@dataclass(frozen=True)
class Draws:
    """One function of the posterior of each of several processes over the same points; all arrays, to be kept on disk.

    With p processes of n points in d dimensions: `roots` (p, d) scale the coordinates, `points` (n, d), `solved`
    (p, n), `smooth` (p,), `linear` (p,), `waves` (p, FEATURES, d), `phases` and `heights` (p, FEATURES), and
    `slopes` (p, d + 1) with the constant last.
    """

    points: Array
    roots: Array
    solved: Array
    smooth: Array
    linear: Array
    waves: Array
    phases: Array
    heights: Array
    slopes: Array

    @classmethod
    def of(cls, processes: tuple[Process, ...], rng: np.random.Generator, mean: bool = False) -> Draws:
        """A draw; with `mean`, the posterior's mean instead."""
        points = processes[0].points
        n, d = points.shape
        parts = []
        for p in processes:
            chi = rng.chisquare(5, size=(FEATURES, 1)) / 5  # a Matern-5/2 spectrum is Student's t with 5 degrees
            waves = rng.normal(size=(FEATURES, d)) / np.sqrt(chi) * np.sqrt(p.weights)
            phases = rng.uniform(0, 2 * np.pi, FEATURES)
            drawn = 0.0 if mean else 1.0
            heights = drawn * rng.normal(size=FEATURES) * math.sqrt(2 * p.smooth / FEATURES)
            slopes = drawn * rng.normal(size=d + 1) * math.sqrt(p.linear / d)
            noise = drawn * rng.normal(size=n) * math.sqrt(p.noise)
            prior = np.cos(points @ waves.T + phases) @ heights + points @ slopes[:-1] + slopes[-1]
            solved = p.inverse @ (p.values - prior - noise)
            parts.append((np.sqrt(p.weights), solved, p.smooth, p.linear, waves, phases, heights, slopes))
        return cls(points, *(np.array(part) for part in zip(*parts, strict=True)))

    def nearer(self, mean: Draws, share: float) -> Draws:
        """The function that departs from the `mean` of the same processes by this share of what this one does."""
        solved = mean.solved + share * (self.solved - mean.solved)
        return replace(self, solved=solved, heights=share * self.heights, slopes=share * self.slopes)

    @property
    def arrays(self) -> dict[str, Array]:
        """Its fields by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __call__(self, x: Array) -> Array:
        """The functions at points of shape (m, d), as (m, p)."""
        d = x.shape[1]
        out = np.einsum("pmf,pf->mp", np.cos(x @ self.waves.transpose(0, 2, 1) + self.phases[:, None, :]), self.heights)
        out += x @ self.slopes[:, :-1].T + self.slopes[:, -1]
        a, b = x * self.roots[:, None, :], self.points * self.roots[:, None, :]
        squared = (a**2).sum(2)[:, :, None] + (b**2).sum(2)[:, None, :] - 2 * a @ b.transpose(0, 2, 1)
        near = self.smooth[:, None, None] * _matern(np.maximum(squared, 0))[0]
        near += self.linear[:, None, None] * ((x @ self.points.T + 1) / d)
        return np.asarray(out + np.einsum("pmn,pn->mp", near, self.solved))
