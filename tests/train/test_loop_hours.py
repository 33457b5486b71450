"""Runs whose end is decided on the way, stopped after any of their steps: the adapter that one go gives, too.

The clock is turned by hand, a second or so a step, so that the real decisions come where they always do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_train import make_recipe, make_splits

from train.checkpoint import newest
from train.data.splits import Splits
from train.data.splits import splits as load_splits
from train.decisions import FILE, Decisions
from train.hours import ByHours, Replayed
from train.loop import StepFacts, Trained, Unwatched, train
from train.model import LoadedBase, drop_adapter
from train.recipe import Probe, Recipe, Source
from train.rundir import RunDir

ALLOWANCE_S = 24.0
TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
Make = Callable[[Recipe], Splits]

PLAIN = {"packing": False, "dropout": 0.0, "micro_batch_size": 4}
VARIANTS = {
    "plain": PLAIN,
    "packed": {**PLAIN, "packing": True},
    "accumulation": {**PLAIN, "micro_batch_size": 1},
    "packed-dropout": {"dropout": 0.3},
    "stage-edge": {"dpo_share": 0.3},
    "epoch-edge": {},
}


class Turned(Unwatched):
    """The clock, and the watch that turns it at each step and stops after step `at`."""

    def __init__(self, at: float) -> None:
        self.spent_s, self.at, self.now = 0.0, at, 0

    def step(self, facts: StepFacts) -> None:
        self.now = facts.step
        self.spent_s += (1.0 if facts.stage == "sft" else 2.0) * (1.0 + 0.3 * math.sin(facts.step))

    def should_stop(self) -> bool:
        return self.now >= self.at


def at_most(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"examples": 5 * recipe.examples})


def start(recipe: Recipe, run: RunDir, base: LoadedBase, make: Make, spent_s: float, stop: float) -> tuple[str, float]:
    """One start, after so many seconds, that is stopped after that step; how it ended, and the clock's reading."""
    run.create(recipe)
    watch = Turned(stop)
    watch.spent_s = spent_s + 0.3
    horizon = ByHours(recipe, at_most(recipe), Decisions(run.path / FILE, recipe), watch, ALLOWANCE_S)
    return done(train(recipe, run, base, watch=watch, rungs=TENTHS, splits=make(horizon.most), horizon=horizon)), (
        watch.spent_s
    )


def done(trained: Trained) -> str:
    drop_adapter(trained.model)
    return trained.outcome


def interrupted(recipe: Recipe, run: RunDir, base: LoadedBase, make: Make, stops: list[int]) -> None:
    """The whole run, stopped after each of these steps."""
    spent_s, outcome = 0.0, ""
    for stop in (*stops, math.inf):
        outcome, spent_s = start(recipe, run, base, make, spent_s, stop)
        if outcome == "completed":
            break
        held = newest(run)
        assert held is not None
        assert held.position.step == stop
    assert outcome == "completed"
    assert spent_s <= ALLOWANCE_S


def in_one_go(recipe: Recipe, run: RunDir, base: LoadedBase, make: Make, decided: RunDir) -> None:
    given = Decisions(decided.path / FILE, recipe).read()
    horizon = Replayed(recipe, at_most(recipe), given)
    options: dict[str, Any] = {"rungs": TENTHS, "checkpoint_every_s": math.inf, "horizon": horizon}
    assert done(train(recipe, run, base, splits=make(horizon.most), **options)) == "completed"


def adapter(run: RunDir) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


@pytest.fixture(params=VARIANTS)
def case(request: pytest.FixtureRequest, base_folder: Path, base: LoadedBase, tmp_path: Path) -> tuple[Recipe, Make]:
    """A recipe of ten steps, whose hours hold about twice as many, and its data."""
    recipe = make_recipe(base_folder, examples=40, **VARIANTS[request.param])
    if request.param != "epoch-edge":
        return recipe, make_splits
    words = ("one", "two", "three", "four", "five", "six")
    (tmp_path / "made.jsonl").write_text("\n".join(json.dumps({"prompt": f"say {w}", "response": w}) for w in words))
    sources = (Source(name="made", path=str(tmp_path / "made.jsonl")),)
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    recipe = make_recipe(base_folder, examples=40, sources=sources, probe=Probe(rows=1), chat_template=template)
    return recipe, lambda most: load_splits(most, base.tokenizer)


def check(recipe: Recipe, make: Make, base: LoadedBase, folder: Path, stops: list[int]) -> list[str]:
    """Stop a run there and make it again; why its end was decided, each time."""
    run, again = RunDir(folder / f"stopped-{stops[0]}"), RunDir(folder / f"again-{stops[0]}")
    interrupted(recipe, run, base, make, stops)
    in_one_go(recipe, again, base, make, run)
    assert adapter(again) == adapter(run)
    return [decision.why for decision in Decisions(run.path / FILE, recipe).read()]


def test_a_run_that_is_stopped_goes_on_as_it_was_decided(
    case: tuple[Recipe, Make], base: LoadedBase, tmp_path: Path
) -> None:
    assert "pace" in check(*case, base, tmp_path, stops=[6, 7, 13])


def test_a_run_that_is_stopped_after_every_step_ends_in_its_hours(
    case: tuple[Recipe, Make], base: LoadedBase, tmp_path: Path
) -> None:
    recipe, make = case
    recipe = recipe.model_copy(update={"examples": 4 * 30})  # more than the hours hold; no start measures a pace
    assert check(recipe, make, base, tmp_path, stops=list(range(1, 30))) in (["recipe", "hours"], ["recipe", "turned"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_stopped_after_any_step_goes_on_as_it_was_decided(
    case: tuple[Recipe, Make], base: LoadedBase, tmp_path: Path
) -> None:
    for step in range(1, 18):
        check(*case, base, tmp_path, stops=[step])
