"""`make bench-horizon`: the best learning rate as a function of the steps, on the rehearsal world.

    python benchmarks/horizon.py [--times 0.25 1 4 16] [--seeds 2]

The hand-picked recipe "plain" is trained for these multiples of a trial's length, each time with learning rates that
are a factor of two apart: those around the best of the horizon before, and further ones until the best has a worse
neighbour on either side. The data are ROWS rows, so that 16 times a trial stays below the three epochs of a final run.
Judged is the probe, in bits per byte. Each run is a line of JSON in the cache folder as it ends, and a killed benchmark
goes on where it was; what is there already is read, not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from landscape_make import Maker, Watch, maker
from scipy.stats import t as student
from table import Figure, publish

from search import horizon, space
from train import loop, model, rehearsal, rehearsal_text
from train.recipe import Filters, Recipe, Source

WORLD, PRIOR = "llama-0", "plain"
ROWS = 9000
TIMES = (0.25, 1.0, 4.0, 16.0)
CENTRE = 5e-3  # of the grid; the other rates are this times a power of two
POWERS = range(-5, 5)  # as far as the grid may be widened


@dataclass(frozen=True)
class Run:
    """One training run: `power` of two of its learning rate, and what the probe measured (infinity: it broke down)."""

    times: float
    steps: int
    power: int
    seed: int
    bits: float


@dataclass(frozen=True)
class Best:
    """The best learning rate of one horizon and seed: the vertex of a parabola through the best and its neighbours."""

    times: float
    steps: int
    seed: int
    rate: float
    inside: bool  # the best has a worse neighbour on either side


@dataclass(frozen=True)
class Fit:
    """rate ~ steps ** -exponent, by least squares on logarithms; the half-width is that of a 95 % interval."""

    exponent: float
    half_width: float


class Bench:
    """The world, its longer data, and the runs that are in the file."""

    def __init__(self, world: Maker, kept: Path) -> None:
        self.world, self.kept = world, kept
        self.runs = read(kept)
        self.data = world.scratch / "clean.jsonl"
        write_rows(self.data, world.study.study.seed)

    def search(self, times: float, seed: int, around: int) -> int:
        """Train what is missing until the best of the horizon lies inside; returns its power of two."""
        wanted = {around - 1, around, around + 1}
        while True:
            bits = {power: self.bits(times, power, seed) for power in sorted(wanted)}
            best = min(bits, key=bits.__getitem__)
            wider = {best - 1, best + 1} & set(POWERS)
            if wider <= wanted:
                return best
            wanted |= wider

    def bits(self, times: float, power: int, seed: int) -> float:
        """What one run gives; from the file where it is there."""
        for run in self.runs:
            if (run.times, run.power, run.seed) == (times, power, seed):
                return run.bits
        recipe = self.recipe(times, power, seed)
        run = Run(times, recipe.steps, power, seed, train(self.world, recipe))
        with open(self.kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
        print(run, flush=True)
        self.runs.append(run)
        return run.bits

    def recipe(self, times: float, power: int, seed: int) -> Recipe:
        """The prior with another horizon, learning rate and seed."""
        study = self.world.study
        prior = next(prior for prior in study.prior if prior.name == PRIOR)
        plain = space.recipe(study, prior.params, self.world.found)
        source = Source(name="clean", path=str(self.data), filters=Filters(overlap="keep"))
        changes = {"examples": round(plain.examples * times), "learning_rate": CENTRE * 2.0**power}
        return plain.model_copy(update={**changes, "seed": seed, "sources": (source,), "rows": None})


def train(world: Maker, recipe: Recipe) -> float:
    """Bits per byte of the probe at the end of one run."""
    run = loop.RunDir(world.scratch / "run")
    try:
        made = loop.train(recipe, run, world.base, watch=Watch(lambda: ("", 0.0)), rungs=(1.0,), checkpoint_every_s=1e9)
    except loop.TrainingFailed:
        return math.inf
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
    model.drop_adapter(made.model)
    return made.rungs[1.0]


def write_rows(path: Path, seed: int) -> None:
    """Rows as the rehearsal world's clean ones, of other requests."""
    asked = rehearsal_text.requests(Random(f"horizon {seed}"), ROWS)
    rows = [{"prompt": one.prompt, "response": rehearsal_text.comply(one)} for one in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(kept: Path) -> list[Run]:
    """The runs that were made."""
    return [Run(**json.loads(line)) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []


def bests(runs: Sequence[Run]) -> Iterator[Best]:
    """The best learning rate of each horizon and seed that has three runs or more."""
    groups: dict[tuple[float, int, int], dict[int, float]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: (run.times, run.seed)):
        groups[run.times, run.steps, run.seed][run.power] = run.bits
    for (times, steps, seed), bits in groups.items():
        if len(bits) >= 3:
            power, inside = vertex(bits)
            yield Best(times, steps, seed, CENTRE * 2.0**power, inside)


def vertex(bits: Mapping[int, float]) -> tuple[float, bool]:
    """Where the parabola through the logarithms of the best and its two neighbours is lowest; the best itself, and
    False, where it lies at the edge."""
    best = min(bits, key=bits.__getitem__)
    around = [bits.get(best + step, math.inf) for step in (-1, 0, 1)]
    if not all(map(math.isfinite, around)):
        return float(best), False
    left, middle, right = map(math.log, around)
    bend = left - 2 * middle + right
    return best + (0.5 * (left - right) / bend if bend > 0 else 0.0), True


def fit(found: Sequence[Best]) -> Fit:
    """The power law through the best rates that lie inside. Raises StatisticsError under two horizons."""
    inside = [best for best in found if best.inside]
    x, y = [math.log(best.steps) for best in inside], [math.log(best.rate) for best in inside]
    slope, intercept = statistics.linear_regression(x, y)
    left = [b - slope * a - intercept for a, b in zip(x, y, strict=True)]
    free = len(x) - 2
    spread = math.fsum((a - statistics.fmean(x)) ** 2 for a in x)
    error = math.sqrt(math.fsum(r * r for r in left) / free / spread) if free else math.inf
    return Fit(-slope, error * float(student.ppf(0.975, free)) if free else math.inf)


def report(runs: Sequence[Run]) -> None:
    """Publish what the runs say, beside what the freeze corrects by."""
    found, used = list(bests(runs)), horizon.EXPONENT
    laws = {"every horizon": fit(found), "from a trial's length on": fit([best for best in found if best.times >= 1.0])}
    figures = [
        Figure(
            f"exponent, {what}",
            f"{law.exponent:.2f} +- {law.half_width:.2f}",
            "-",
            f"{used:g}, as in the freeze, within it",
            abs(law.exponent - used) <= law.half_width,
        )
        for what, law in laws.items()
    ]
    publish("horizon", "The best learning rate by the length of the run", figures, notes(runs, found))


def notes(runs: Sequence[Run], found: Sequence[Best]) -> str:
    """The tables of what was measured."""
    head = "| times a trial | steps | seed | best learning rate | inside the grid |\n|---|---|---|---|---|\n"
    rows = "".join(f"| {b.times:g} | {b.steps} | {b.seed} | {b.rate:.2e} | {b.inside} |\n" for b in found)
    powers = sorted({run.power for run in runs})
    every = "| bits per byte: times, seed | " + " | ".join(f"{CENTRE * 2.0**power:.2e}" for power in powers) + " |\n"
    every += "|---" * (len(powers) + 1) + "|\n"
    for times, seed in sorted({(run.times, run.seed) for run in runs}):
        bits = {run.power: f"{run.bits:.4f}" for run in runs if (run.times, run.seed) == (times, seed)}
        every += f"| {times:g}, {seed} | " + " | ".join(bits.get(power, "-") for power in powers) + " |\n"
    said = (
        f'The recipe is the prior "{PRIOR}" of the rehearsal, on {ROWS:,} rows. The best rate is the vertex of a '
        "parabola through the\nlogarithms of the best run and its two neighbours; the power law is fitted to those "
        "that lie inside the grid\n(95 % interval). The freeze's exponent is no fit to these few runs: one that "
        "holds 0, too, shows no effect.\n"
    )
    return f"{head}{rows}\n{every}\n{said}"


def main() -> None:
    """Train what is missing, then publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=float, nargs="+", default=TIMES, help="multiples of a trial's length")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    kept = rehearsal._cache() / "horizon.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with maker(WORLD) as world:
        bench = Bench(world, kept)
        for seed in range(asked.seeds):
            best = 0
            for times in sorted(asked.times):
                best = bench.search(times, seed, best)
    report(bench.runs)


if __name__ == "__main__":
    main()
