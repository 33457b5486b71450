"""Replay landscapes: what any recipe of the rehearsal space would have shown, from a table of recipes really trained.

    python benchmarks/landscape.py NAME ...     # prints what docs/benchmarks/landscapes.md shows

A recipe of the table shows its own measured curve. Any other one shows what one function drawn from the posterior of a
Gaussian process over the table says of it (benchmarks/landscape_table.py), plus the luck of its training seed and of
its prompts, both with the variance that the table shows. All of it is a pure function of the file, the recipe and the
seed, so that every search meets the same world, and who asks twice hears the same.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import landscape_fit
import landscape_table as tables
from landscape_fit import Array, Draws, encode
from landscape_table import ABILITIES, END, FRACTIONS, Fit, Table

from search import config, home
from search.config import StudyConfig
from search.parameters import Choice, Parameter, Value

__all__ = ["FRACTIONS", "Landscape", "Run", "drawn"]
FOLDER = Path(__file__).parent / "landscapes"
KEPT = "landscape-fits"  # in the cache folder
DENSE, LEADERS, ROUNDS, TRIES = 8000, 20, 15, 20  # how the best of the space is looked for
ELSEWHERE = 400  # recipes at which a drawn function is held against the table
NEIGHBOURS = 5  # who decide whether a recipe fails, where any of the table did


@dataclass(frozen=True)
class Run:
    """What one training run of one recipe shows, at any rung.

    `failed_at`: the fraction at which its loss is not finite any more; None: it ends. Seconds are of one core:
    `train_s` of the whole training, data and save included and proportional to the fraction, `probe_s` of one probe,
    `prompt_s` of asking one prompt. `truth` is the expected share of all prompts of the sealed half followed at the
    end, without the luck of the training seed and of the prompts: what regret is taken of.
    """

    failed_at: float | None
    train_s: float
    probe_s: float
    prompt_s: float
    truth: float
    log_bits: Array  # at FRACTIONS
    verdicts: Array  # (FRACTIONS, prompts) of the search half
    mixing: Array  # of each prompt, where between two FRACTIONS its verdict changes: 0 to 1

    def bits(self, fraction: float) -> float:
        """Bits per byte of the probe, interpolated between FRACTIONS; NaN once it has failed."""
        if self._failed(fraction):
            return math.nan
        return math.exp(np.interp(fraction, FRACTIONS, self.log_bits))

    def followed(self, fraction: float) -> Array:
        """Whether each prompt of the search half is followed, as bool; none is once the run has failed.

        Between two FRACTIONS, some prompts are where they were at the first, some already where they will be.
        """
        if self._failed(fraction):
            return np.zeros(len(self.mixing), bool)
        at = float(np.interp(fraction, FRACTIONS, range(len(FRACTIONS))))
        before = int(at)
        after = min(before + 1, len(FRACTIONS) - 1)
        return np.asarray(np.where(self.mixing < at - before, self.verdicts[after], self.verdicts[before]))

    def _failed(self, fraction: float) -> bool:
        return self.failed_at is not None and fraction >= self.failed_at


class Landscape:
    """One world that a search can be replayed on."""

    def __init__(self, table: Table, fit: Fit) -> None:
        self.table, self.fit = table, fit
        self.name = table.name
        self.keys = table.keys  # of the search half's prompts, in the order of `take`
        self.best = math.nan  # see find_best; `load` sets it
        self._draws, self._seconds, self._warp = Draws(**fit.draws), Draws(**fit.mean), fit.warp

    @classmethod
    def load(cls, name: str | Path) -> Landscape:
        """The landscape of benchmarks/landscapes/NAME.jsonl.gz, or of the file of a path; the fit is kept on disk."""
        path = Path(name) if str(name).endswith((".gz", ".jsonl")) else FOLDER / f"{name}.jsonl.gz"
        made_of = [path, Path(__file__), Path(landscape_fit.__file__), Path(tables.__file__)]
        return _loaded(path, hashlib.sha256(b"".join(p.read_bytes() for p in made_of)).hexdigest()[:32])

    @property
    def study(self) -> StudyConfig:
        """The rehearsal's study, whose space this is."""
        return _study(self.table.seed)

    def find_best(self) -> float:
        """The largest truth found in the space: of a dense random sample, then of a local search from its best points;
        the rows of the table are in the sample."""
        rng = np.random.default_rng(self.table.seed)
        space = self.study.space
        found = [row["params"] for row in self.table.rows] + [drawn(space, rng) for _ in range(DENSE)]
        truths = self.truths(found)
        for _ in range(ROUNDS):
            first = np.argsort(truths)[::-1][:LEADERS]
            leaders = [found[n] for n in first]
            tried = [_moved(space, leader, rng) for leader in leaders for _ in range(TRIES)]
            found, truths = leaders + tried, np.concatenate([truths[first], self.truths(tried)])
        return float(truths.max())

    def run(self, params: Mapping[str, Value], seed: int = 0) -> Run:
        """What training this recipe shows; seed 0 is the table's own, seed 1 that of its repeats."""
        text = tables.spelled(params)
        rng = self._rng(text, seed)
        x = encode(params)[None]
        settled = self._scores(x)[0] + self._own(text)
        row = self.table.number.get((text, seed))
        if row is None:
            numbers = self._warp.values(settled + self.fit.luck @ rng.normal(size=len(settled)))
        else:
            numbers = self.fit.numbers[row]
        verdicts = rng.random((len(FRACTIONS), len(self.keys))) < self._chances(numbers)
        if row is not None:
            verdicts[[1, 2, 4]] = self.table.followed[row] == 1
        train_s, probe_s, prompt_s = self._spent(x, row, rng)
        return Run(
            failed_at=self._failure(x),
            train_s=train_s,
            probe_s=probe_s,
            prompt_s=prompt_s,
            truth=float(self._truth(settled[None])[0]),
            log_bits=numbers[ABILITIES:],
            verdicts=verdicts,
            mixing=rng.random(len(self.keys)),
        )

    def truths(self, recipes: Sequence[Mapping[str, Value]]) -> Array:
        """The truth of each of these recipes, as `run` says it."""
        spelled = [tables.spelled(params) for params in recipes]
        points = np.array([encode(params) for params in recipes])
        scores = np.concatenate([self._scores(points[n : n + 500]) for n in range(0, len(points), 500)])
        return self._truth(scores + np.array([self._own(text) for text in spelled]))

    def expected(self, params: Mapping[str, Value], seeds: Sequence[int]) -> Array:
        """The share of the sealed half that is expected of each of these training seeds, its luck included."""
        text = tables.spelled(params)
        settled = self._scores(encode(params)[None])[0] + self._own(text)
        luck = [self.fit.luck @ self._rng(text, seed).normal(size=len(settled)) for seed in seeds]
        return self._truth(settled + np.array(luck))

    def _scores(self, points: Array) -> Array:
        """What the drawn function says of recipes."""
        return np.asarray(self._draws(points) @ self.fit.turn)

    def _own(self, text: str) -> Array:
        """What is the recipe's own, beside the drawn function."""
        row = self.table.number.get((text, 0))
        if row is not None:
            return np.asarray(self.fit.of_rows[row])
        return np.asarray(self.fit.rest @ self._rng(text, None).normal(size=len(self.fit.rest)))

    def _truth(self, scores: Array) -> Array:
        abilities = self._warp.values(scores)[:, END]
        return np.asarray(self.fit.items.probability(abilities)[:, len(self.keys) :].mean(axis=1))

    def _chances(self, numbers: Array) -> Array:
        """That each prompt of the search half is followed, at FRACTIONS."""
        quarter, half, end = numbers[:ABILITIES]
        first = quarter + self.fit.early * (numbers[ABILITIES] - numbers[ABILITIES + 1])
        abilities = np.array([min(first, quarter), quarter, half, (half + end) / 2, end])
        return self.fit.items.probability(abilities)[:, : len(self.keys)]

    def _spent(self, x: Array, row: int | None, rng: np.random.Generator) -> tuple[float, float, float]:
        centre, scale, deviation = self.fit.seconds
        drawn = self._seconds(x)[0] * scale + centre + deviation * rng.normal(size=len(centre))
        train_s, probe_s, prompt_s = np.exp(drawn if row is None else self.table.log_seconds[row])
        return float(train_s), float(probe_s), float(prompt_s)

    def _failure(self, x: Array) -> float | None:
        """Where most of the nearest recipes of the table failed: where the nearest of those did."""
        if not self.table.failed:
            return None
        failed = np.array([encode(row["params"]) for row in self.table.failed])
        points = np.concatenate([failed, self.table.points])
        nearest = np.argsort(((points - x) ** 2).sum(axis=1), kind="stable")[:NEIGHBOURS]
        itself = nearest[0] < len(failed) and np.allclose(points[nearest[0]], x)
        fails = [n for n in nearest if n < len(failed)]
        if not itself and len(fails) <= NEIGHBOURS // 2:
            return None
        return FRACTIONS[min(len(self.table.failed[fails[0]]["bits"]), len(FRACTIONS) - 1)]

    def _rng(self, text: str, seed: int | None) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.name} {text} {seed}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@cache
def _loaded(path: Path, digest: str) -> Landscape:
    from train.rehearsal import _cache

    table = Table.read(path)
    kept = _cache() / KEPT / f"{digest}.npz"
    rng = np.random.default_rng(table.seed)
    elsewhere = np.array([encode(drawn(_study(table.seed).space, rng)) for _ in range(ELSEWHERE)])
    found = Landscape(table, tables.kept(kept, table, elsewhere))
    best = kept.with_suffix(".best")
    if not best.exists():
        best.write_text(repr(found.find_best()), encoding="utf-8")
    found.best = float(best.read_text(encoding="utf-8"))
    return found


@cache
def _study(seed: int) -> StudyConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / home.STUDY_FILE
        path.write_text(re.sub(r"(?m)^seed = 0\b", f"seed = {seed}", home.preset("rehearsal")), encoding="utf-8")
        return config.load(path)


def drawn(space: Mapping[str, Parameter], rng: np.random.Generator) -> dict[str, Value]:
    """A recipe as random search draws it."""
    return tables.relevant({name: _any(parameter, rng) for name, parameter in space.items()})


def _any(parameter: Parameter, rng: np.random.Generator) -> Value:
    if isinstance(parameter, Choice):
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    return _at(parameter, float(rng.random()))


def _at(parameter: Parameter, share: float) -> Value:
    """The value of a range at this share of its way from low to high."""
    assert not isinstance(parameter, Choice)
    low, high = float(parameter.low), float(parameter.high)
    value = low * (high / low) ** share if parameter.log else low + share * (high - low)
    if parameter.step:
        value = low + round((value - low) / parameter.step) * parameter.step
    return min(max(value, low), high)


def _moved(space: Mapping[str, Parameter], params: Mapping[str, Value], rng: np.random.Generator) -> dict[str, Value]:
    """The recipe with a few parameters drawn anew, near where they were or, now and then, anywhere."""
    moved = {name: params.get(name, _any(parameter, rng)) for name, parameter in space.items()}
    for name in rng.choice(list(space), size=int(rng.integers(1, 4)), replace=False):
        parameter = space[name]
        if isinstance(parameter, Choice) or rng.random() < 0.2:
            moved[name] = _any(parameter, rng)
        else:
            moved[name] = _at(parameter, float(np.clip(_share(parameter, moved[name]) + rng.normal() * 0.08, 0, 1)))
    return tables.relevant(moved)


def _share(parameter: Parameter, value: Value) -> float:
    assert not isinstance(parameter, Choice)
    low, high, at = float(parameter.low), float(parameter.high), float(value)
    return math.log(at / low) / math.log(high / low) if parameter.log else (at - low) / (high - low)


def main(names: Sequence[str]) -> int:
    """Print the facts of each landscape."""
    import landscape_facts

    for name in names:
        print(landscape_facts.page(Landscape.load(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
