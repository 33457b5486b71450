"""The table of a replay landscape as arrays, and everything that is fitted to it.

What a run shows is eight numbers: its ability at 1/4, 1/2 and the end, and the logarithm of its bits at FRACTIONS.
They are warped to normal scores and turned to their principal components, each with a Gaussian process of its own.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from landscape_fit import Array, Draws, Items, Process, Warp, abilities, encode
from scipy.stats import spearmanr

from search.parameters import Value, condition

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
ASKED = ("25", "50", "100")
BITS = ("12.5", "25", "50", "75", "100")
SECONDS = ("train", "probe", "prompt")
ABILITIES = len(ASKED)  # of the numbers of a run, the first ones
END = ABILITIES - 1  # the ability at the end
TRIED = 32  # functions drawn, of which one is taken
DEPARTURES = (0.4, 0.6, 0.8, 1.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.97)
FEW_REPEATS, SEEDS = 3, 3.0  # with fewer, the luck of seeds is as many times what is unexplained as on llama-0


def relevant(params: Mapping[str, Value]) -> dict[str, Value]:
    """The parameters that matter to the recipe, in one spelling: equal for recipes that train alike."""
    kept = {}
    for name in sorted(params):
        needed = condition(name)
        if needed is None or needed.holds(params.get(needed.on)):
            value = params[name]
            kept[name] = value if isinstance(value, str) else float(value)
    return kept


def spelled(params: Mapping[str, Value]) -> str:
    """One text for each recipe."""
    return json.dumps(relevant(params))


class Table:
    """The rows of a file, as benchmarks/landscape_make.py writes them; a last line that is torn is left out."""

    def __init__(self, text: str) -> None:
        head, *rows = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        self.name: str = head["landscape"]
        self.seed: int = head["seed"]
        self.keys: tuple[int, ...] = tuple(head["search"])
        self.sealed: int = len(head["sealed"])
        self.rows: list[dict[str, Any]] = [row for row in rows if row["outcome"] == "completed"]
        self.failed: list[dict[str, Any]] = [row for row in rows if row["outcome"] != "completed"]

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table of a file, packed or not."""
        return cls((gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode())

    @cached_property
    def points(self) -> Array:
        """The recipes, encoded."""
        return np.array([encode(row["params"]) for row in self.rows])

    @cached_property
    def log_bits(self) -> Array:
        """(rows, FRACTIONS)."""
        return np.log([[row["bits"][name] for name in BITS] for row in self.rows])

    @cached_property
    def followed(self) -> Array:
        """(rows, ASKED, search half): 1 where followed."""
        return np.array([[_marks(row["followed"][name]) for name in ASKED] for row in self.rows])

    @cached_property
    def sealed_followed(self) -> Array:
        """(rows, sealed half), at the end."""
        return np.array([_marks(row["sealed"]) for row in self.rows])

    @cached_property
    def log_seconds(self) -> Array:
        """(rows, SECONDS): of the whole training, of a probe, of a prompt."""
        return np.log([_seconds(row, len(self.keys)) for row in self.rows])

    @cached_property
    def number(self) -> dict[tuple[str, int], int]:
        """Where each recipe's run stands, by its spelling and its turn: 0 for the first of it, 1 for its repeat."""
        found: dict[tuple[str, int], int] = {}
        for number, row in enumerate(self.rows):
            found[spelled(row["params"]), int(row["seed"] != self.seed)] = number
        return found

    @property
    def repeated(self) -> list[tuple[int, int]]:
        """Rows of the same recipe with another training seed."""
        pairs = [(self.number.get((text, 0)), n) for (text, turn), n in self.number.items() if turn]
        return [(first, second) for first, second in pairs if first is not None]


def _marks(text: str) -> list[float]:
    return [float(mark) for mark in text]


def _seconds(row: dict[str, Any], prompts: int) -> tuple[float, float, float]:
    spent = row["seconds"]
    asked = sum(row["asked_seconds"].values()) / len(row["asked_seconds"])
    return spent["data"] + spent["train"] + spent["save"], spent["probe"] / len(BITS), asked / prompts


@dataclass(frozen=True)
class Fit:
    """What is fitted to a table of n rows with k numbers each; all arrays, so that it can be kept on disk.

    The draws' values times `turn` (k, k) are the normal scores of a run's numbers. `rest` and `luck` (k, k) are roots
    of the covariance of what the recipe does not explain in them: what is its own, and what is the training seed's.
    """

    a: Array  # (prompts,) the search half's, then the sealed half's
    d: Array
    numbers: Array  # (n, k) of the rows
    left_out: Array  # (n, k): what the other rows say of each
    levels: Array  # of the Warp
    calibration: Array  # (k,) of each component: mean squared error of that over the variance that it claims
    noise: Array  # (k,) variance of a score that comes of the luck of the prompts
    seeds: Array  # () variance that comes of the training seed, by that which the recipe does not explain
    turn: Array
    draws: dict[str, Array]
    mean: dict[str, Array]  # the processes of the seconds
    rest: Array
    luck: Array
    of_rows: Array  # (n, k): what is each row's own, beside the drawn function
    early: Array  # () abilities per unit of log bits, before 1/4
    seconds: Array  # (3, SECONDS): centre, scale, deviation of the rest
    seconds_left_out: Array  # (n, SECONDS)

    @property
    def warp(self) -> Warp:
        """Between numbers and their scores."""
        return Warp(self.levels)

    @property
    def items(self) -> Items:
        """The prompts' model."""
        return Items(self.a, self.d)


def fit(table: Table, elsewhere: Array) -> Fit:
    """Everything that is fitted to a table. `elsewhere` are recipes of the space, encoded, as random search draws them:
    of TRIED functions that the posterior allows, each departing from its mean in full or in part (DEPARTURES), the one
    is taken that is there the most like the table. See _unlike."""
    n, rng = len(table.rows), np.random.default_rng(table.seed)
    unasked = np.full((n, ABILITIES, table.sealed), np.nan)
    unasked[:, END] = table.sealed_followed
    verdicts = np.concatenate([table.followed, unasked], axis=2).reshape(n * ABILITIES, -1)
    theta, items = abilities(verdicts)
    numbers = np.hstack([theta.reshape(n, ABILITIES), table.log_bits])
    warp = Warp.of(numbers)
    scores = warp.scores(numbers)
    noise = _score_noise(warp, numbers, items.noise(theta, ~np.isnan(verdicts)).reshape(n, ABILITIES))
    turn = np.linalg.svd(scores, full_matrices=False)[2]
    processes = tuple(Process.fitted(table.points, column) for column in (scores @ turn.T).T)
    mean_of, allowed = Draws.of(processes, rng, mean=True), [Draws.of(processes, rng) for _ in range(TRIED)]
    allowed = [one.nearer(mean_of, share) for one in allowed for share in DEPARTURES]
    draws = min(allowed, key=lambda one: _unlike(one(elsewhere) @ turn, scores))
    unexplained = _less((turn.T * [p.noise for p in processes]) @ turn, noise)
    seeds = _of_seeds(table, scores, noise, unexplained)
    own = max(0.0, 1 - seeds) * unexplained @ np.linalg.pinv(unexplained + np.diag(noise))
    seconds, seconds_left_out, mean = _seconds_fit(table, rng)
    return Fit(
        a=items.a,
        d=items.d,
        numbers=numbers,
        left_out=warp.values(np.array([p.left_out() for p in processes]).T @ turn),
        levels=warp.levels,
        calibration=np.array([p.calibration() for p in processes]),
        noise=noise,
        seeds=np.array(seeds),
        turn=turn,
        draws=draws.arrays,
        mean=mean.arrays,
        rest=_root(max(0.0, 1 - seeds) * unexplained),
        luck=_root(seeds * unexplained),
        of_rows=(scores - draws(table.points) @ turn) @ own.T,
        early=np.polyfit(table.log_bits[:, 1], numbers[:, 0], 1)[0],
        seconds=seconds,
        seconds_left_out=seconds_left_out,
    )


def _unlike(drawn: Array, scores: Array) -> float:
    """How far what is drawn is from the table: in the quantiles of every number, above all of the ability at the end,
    and in how each ranks with that, among all recipes and among the better half."""
    apart = np.quantile(drawn, QUANTILES, axis=0) - np.quantile(scores, QUANTILES, axis=0)
    ranks = [_ranks(drawn) - _ranks(scores), _ranks(_better(drawn)) - _ranks(_better(scores))]
    return float((apart**2).mean(axis=0).sum() + (apart[:, END] ** 2).sum() + 4 * sum((r**2).sum() for r in ranks))


def _ranks(scores: Array) -> Array:
    """Rank correlations with the ability at the end."""
    return np.asarray(spearmanr(scores).statistic[END])


def _better(scores: Array) -> Array:
    return np.asarray(scores[scores[:, END] > np.median(scores[:, END])])


def _score_noise(warp: Warp, numbers: Array, variance: Array) -> Array:
    """The median variance of each score, where that of each ability (n, ABILITIES) is given."""
    apart = np.zeros_like(numbers)
    apart[:, :ABILITIES] = np.sqrt(variance)
    return np.asarray(np.median(((warp.scores(numbers + apart) - warp.scores(numbers - apart)) / 2) ** 2, axis=0))


def _seconds_fit(table: Table, rng: np.random.Generator) -> tuple[Array, Array, Draws]:
    values = table.log_seconds
    centre, scale = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-9)
    processes = tuple(Process.fitted(table.points, column) for column in ((values - centre) / scale).T)
    left_out = np.array([p.left_out() for p in processes]).T * scale + centre
    deviation = np.sqrt([p.noise for p in processes]) * scale
    return np.array([centre, scale, deviation]), left_out, Draws.of(processes, rng, mean=True)


def _of_seeds(table: Table, scores: Array, noise: Array, unexplained: Array) -> float:
    """The variance that comes of the training seed, from the repeats, by what the recipe does not explain."""
    pairs = np.array(table.repeated)
    if len(pairs) < FEW_REPEATS:
        return SEEDS
    apart = ((scores[pairs[:, 0]] - scores[pairs[:, 1]]) ** 2).mean(axis=0) / 2 - noise
    return float(max(apart.sum(), 0.0) / np.trace(unexplained))


def _less(covariance: Array, noise: Array) -> Array:
    """The covariance without what is the luck of the prompts, as near as a covariance can be."""
    values, vectors = np.linalg.eigh(covariance - np.diag(noise))
    return np.asarray((vectors * np.maximum(values, 1e-9)) @ vectors.T)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def kept(path: Path, table: Table, elsewhere: Array) -> Fit:
    """The fit in that file, which is made where it is not there. No pickle is read."""
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            return _unpacked(dict(file))
    made = fit(table, elsewhere)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.npz")
    with staged.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **_packed(made))
    staged.replace(path)
    return made


def _packed(made: Fit) -> dict[str, Array]:
    flat: dict[str, Array] = {}
    for field in fields(made):
        value = getattr(made, field.name)
        flat |= {f"{field.name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {field.name: value}
    return flat


def _unpacked(flat: dict[str, Array]) -> Fit:
    known: dict[str, Any] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        if inner:
            known.setdefault(outer, {})[inner] = value
        else:
            known[outer] = value
    return Fit(**known)
