"""What all searches of `make bench-search` share: a landscape with its budget, a simulated night on it, kept results.

A night is GPU-seconds only: a trial's training, what its user's script asks of the model, and nothing for starting up,
loading or thinking, whoever searches. Results are JSON lines in the cache folder, one a night, so that a benchmark that
was killed goes on; they are kept apart by the landscape's contents.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parent))

from landscape import FOLDER, KEPT, Landscape, Run

from search import space
from search.parameters import Value
from train.rehearsal import _cache

RUNGS = (0.25, 0.5, 1.0)  # of the rehearsal's study, for everybody
PROMPTS = 64  # of the search half, that a peer's trials are compared on
TRIALS = 40  # random recipes, in full: the budget of a night
DRAWN = 400  # recipes that say what a random one costs
OURS = "nightshift"
BLANK = "nightshift-blank"  # ours without what it believes beforehand
VERSION = 2  # of what is kept: rises when a night would go otherwise

Params = dict[str, Value]
Trace = list[tuple[float, float]]


class Over(Exception):
    """The budget is used up."""


class Failed(Exception):
    """The training's loss is not finite any more."""


@dataclass(frozen=True)
class World:
    """A landscape, and the folder of the nights that were spent on it."""

    landscape: Landscape
    folder: Path

    @classmethod
    def open(cls, name: str) -> World:
        """The world of that landscape's name, or of the path of its file."""
        path = Path(name) if name.endswith((".gz", ".jsonl")) else FOLDER / f"{name}.jsonl.gz"
        digest = hashlib.sha256(path.read_bytes() + f"{KEPT} {VERSION}".encode()).hexdigest()[:12]
        landscape = Landscape.load(name)
        folder = _cache() / "bench-search" / f"{landscape.name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(landscape, folder)

    @cached_property
    def best(self) -> float:
        """The largest truth of the space."""
        return self._facts["best"]

    @cached_property
    def budget_s(self) -> float:
        """GPU-seconds of a night: TRIALS random recipes in full."""
        return self._facts["budget_s"]

    @cached_property
    def _facts(self) -> dict[str, float]:
        path = self.folder / "facts.json"
        if not path.exists():
            facts = {"best": self.landscape.best, "budget_s": TRIALS * self._mean_cost()}
            path.write_text(json.dumps(facts), encoding="utf-8")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _mean_cost(self) -> float:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [space.suggest(study.ask(), self.landscape.study) for _ in range(DRAWN)]
        runs = [self.landscape.run(params, run_seed(0)) for params in drawn]
        return float(np.mean([run.train_s * (run.failed_at or 1.0) + PROMPTS * run.prompt_s for run in runs]))


def run_seed(night: int) -> int:
    """The seed of all training runs of a night: never the table's own, which would give the priors the same luck."""
    return 1000 + night


@dataclass(frozen=True)
class Kept:
    """The nights of one method on one world, on disk."""

    world: World
    method: str
    priors: bool

    @property
    def path(self) -> Path:
        """The file of the lines."""
        return self.world.folder / f"{self.method}{'+priors' if self.priors else ''}.jsonl"

    def nights(self) -> dict[int, Trace]:
        """The traces so far, by seed; a line that a kill tore is left out."""
        if not self.path.exists():
            return {}
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        return {line["seed"]: [(at, truth) for at, truth in line["trace"]] for line in lines}

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Those of the seeds whose night is still to be spent."""
        done = self.nights()
        return [seed for seed in seeds if seed not in done]

    def add(self, seed: int, trace: Trace, facts: Mapping[str, float] | None = None) -> None:
        """Append one night: (GPU-seconds, truth of the incumbent from then on), and what else is worth knowing."""
        line = {"landscape": self.world.landscape.name, "method": self.method, "priors": self.priors, "seed": seed}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * _torn(self.path) + json.dumps({**line, **(facts or {}), "trace": trace}) + "\n")


def _torn(path: Path) -> bool:
    return path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0


@dataclass
class Night:
    """The clock of one night, the prompts that its trials are compared on, and which trial is the best so far.

    The night's prompts are random ones of the search half. Of the trials that were asked them, `done` has the share
    followed and the truth; `trace` the truth of the one that was picked, from that GPU-second on.
    """

    world: World
    seed: int
    spent_s: float = 0.0
    done: list[tuple[float, float]] = field(default_factory=list)
    trace: Trace = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=lambda: {"complete": 0, "stopped": 0, "failed": 0})

    @cached_property
    def prompts(self) -> np.ndarray:
        """Numbers of the prompts in the search half."""
        keys = len(self.world.landscape.keys)
        return np.random.default_rng(self.seed).choice(keys, size=min(PROMPTS, keys), replace=False)

    def begin(self, params: Params) -> Trial:
        """Start training this recipe."""
        return Trial(self, self.world.landscape.run(params, run_seed(self.seed)))

    def pick(self, values: Sequence[float]) -> None:
        """Of the trials done, the first with the highest of these values is the incumbent."""
        truth = round(self.done[int(np.argmax(values))][1], 6)
        if not self.trace or truth != self.trace[-1][1]:
            self.trace.append((round(self.spent_s, 3), truth))

    def pay(self, seconds: float) -> None:
        """Raises Over once the budget is exceeded: what that paid for does not end any more."""
        self.spent_s += seconds
        if self.spent_s > self.world.budget_s:
            raise Over


@dataclass
class Trial:
    """One training run, paid as it goes on."""

    night: Night
    run: Run
    at: float = 0.0

    def train(self, fraction: float) -> None:
        """Go on to this fraction; raises Failed where the loss stops being finite."""
        failed_at = self.run.failed_at
        until = fraction if failed_at is None else min(fraction, failed_at)
        self.night.pay(self.run.train_s * max(0.0, until - self.at))
        self.at = until
        if failed_at is not None and failed_at <= fraction:
            raise Failed

    def bits(self) -> float:
        """Minus the bits per byte of the probe, as it is now."""
        self.night.pay(self.run.probe_s)
        return -self.run.bits(self.at)

    def followed(self) -> float:
        """The share of the night's prompts that the model follows, as it is now."""
        self.night.pay(len(self.night.prompts) * self.run.prompt_s)
        return float(np.mean(self.run.followed(self.at)[self.night.prompts]))

    def complete(self) -> float:
        """Train to the end and ask; the share followed."""
        self.train(1.0)
        value = self.followed()
        self.night.done.append((value, self.run.truth))
        return value
