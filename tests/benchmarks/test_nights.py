"""The real loop through nights with power cuts, on a world that is a formula (benchmarks/replay_nights.py)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import nights  # noqa: E402
import replay_promises  # noqa: E402
import replay_world  # noqa: E402
from replay_attempt import World  # noqa: E402
from replay_loop import ReplayClock, ReplayedWorker  # noqa: E402
from replay_nights import FIRST_NIGHT, Plan, Story, play  # noqa: E402

from objectives import subset  # noqa: E402
from search import config, loop, view  # noqa: E402
from search.errors import WorkerFailed  # noqa: E402
from train.rundir import RunDir, write_json  # noqa: E402

PROMPTS = nights.prompts(136)
KEYS = [prompt.key for prompt in subset.halves(PROMPTS)[0]]


@dataclass(frozen=True)
class Made:
    """A recipe's run: the learning rate decides how good it is, the rank how long it takes, and luck a little."""

    params: Mapping[str, Any]
    probe_s: float = 0.2
    prompt_s: float = 0.01

    @property
    def good(self) -> float:
        return max(0.1, 0.8 - abs(math.log(self.params["learning_rate"] / 5e-3)) / 4)

    @property
    def luck(self) -> Random:
        return Random(str(sorted(self.params.items())))

    @property
    def failed_at(self) -> float | None:
        return 0.3 if self.params["learning_rate"] > 2e-2 else None

    @property
    def train_s(self) -> float:
        return 12.0 + 0.5 * self.params["rank"]

    def bits(self, fraction: float) -> float:
        return 2.0 - fraction * self.good + 0.01 * self.luck.random()

    def followed(self, fraction: float) -> list[bool]:
        luck = self.luck
        return [luck.random() < self.good * fraction for _ in KEYS]


def told(folder: Path, seed: int, cut_by: int | None, **values: Any) -> Story:
    """The nights of one study; `cut_by` is the seed of its power cuts."""
    folder.mkdir()
    study = replay_world.write(folder / "study", PROMPTS, seed=seed, priors=False, trials=nights.TRIALS)
    world = World(Made, nights.Base(len(KEYS)), KEYS, config.load(study).space)
    cuts = {"cuts": 2.0, "seed": cut_by} if cut_by is not None else {}
    return play(
        Plan(folder / "tiny", study, world, **{"nights": 3, "night_s": 60.0, "budget_s": 130.0, **cuts, **values})
    )


def test_power_cuts_at_random_instants_cost_what_they_may_and_nothing_else(tmp_path: Path) -> None:
    uncut = told(tmp_path / "uncut", 0, None, nights=2)  # `make test-slow` has three
    assert len(uncut.record.trials) >= 5
    assert uncut.starts[0].ending == "the deadline is reached"
    assert uncut.starts[0].forecast is not None
    trials, sd, tonight = uncut.starts[0].forecast
    assert tonight  # by the night's own clock
    assert abs(trials - uncut.ended[0]) <= 2 * sd
    cuts = 0
    for seed in range(2):
        cut = told(tmp_path / f"{seed}", 0, seed, nights=2)
        assert replay_promises.broken(cut, uncut) == []
        cuts += sum(not start.ending for start in cut.starts)
    assert cuts >= 3


class Unwell(ReplayedWorker):
    """A worker on a machine that is at fault for as many attempts as there are `faults`."""

    def __init__(self, faults: list[str], *given: Any) -> None:
        super().__init__(*given)
        self.faults = faults

    def assign(self, run: str, attempt: int) -> None:
        if not self.faults:
            super().assign(run, attempt)
            return
        result = {"outcome": "stopped", "unfit": True, "reason": self.faults.pop(), "score": None, "seconds": {}}
        write_json(RunDir(self.runs / run).result, {"attempt": attempt, **result, "broken": False})


def one_night(folder: Path, faults: list[str]) -> tuple[str, view.StudyView, int]:
    """How a night of two trials ended, what came of it, and how many workers it took."""
    study = config.load(replay_world.write(folder / "study", PROMPTS, seed=0, priors=False, trials=2))
    world, clock = World(Made, nights.Base(len(KEYS)), KEYS, study.space), ReplayClock(wall=FIRST_NIGHT, awake=30.0)
    workers: list[Unwell] = []

    def start(runs: Path, *_: Any, **__: Any) -> Unwell:
        workers.append(Unwell(faults, runs, str(len(workers)), clock, world))
        return workers[-1]

    limits = {"deadline": None, "until": None, "budget_s": 1e6}
    ending = loop.run(study, folder / "tiny", **limits, observe=lambda _: None, clock=clock, start=start)
    return ending, view.read(folder / "tiny"), len(workers)


def test_a_fault_of_the_machine_that_lasts_a_moment_costs_a_worker_and_no_trial(tmp_path: Path) -> None:
    seen = {}
    for name, faults in {"well": [], "unwell": ["OSError: Too many open files"]}.items():
        (tmp_path / name).mkdir()
        ending, study, workers = one_night(tmp_path / name, faults)
        assert ending.startswith("all 2 trials are done")
        seen[name] = [(trial.params, trial.state, trial.value) for trial in study.trials], workers
    (well, few), (unwell, more) = seen.values()
    assert well == unwell
    assert more == few + 1


def test_one_that_lasts_ends_the_night_and_no_trial(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)No space left on device.*No recipe is at fault.*goes on from here"):
        one_night(tmp_path, ["OSError: No space left on device"] * 2)
    assert not [trial for trial in view.read(tmp_path / "tiny").trials if trial.state == "failed"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_two_hundred_studies_with_power_cuts(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 20):
        uncut = told(tmp_path / f"{seed}-uncut", seed, None, budget_s=Random(seed).uniform(80.0, 180.0))
        cut = told(tmp_path / f"{seed}-cut", seed, seed, budget_s=uncut.plan.budget_s)
        assert replay_promises.broken(cut, uncut) == [], seed
