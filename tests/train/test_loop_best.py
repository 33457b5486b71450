"""A final run keeps the weights of the lowest held-out loss where that is clearly higher at the end, however late.

What the probe measures is given by the test, by the step; all else is the real run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_train import make_recipe, make_splits

from train.checkpoint import step_name
from train.decisions import FILE, Decisions
from train.horizon import Decision
from train.hours import ByHours, Replayed
from train.loop import StepFacts, Trained, Unwatched, _Attempt, train
from train.model import LoadedBase, drop_adapter
from train.recipe import Recipe
from train.rundir import RunDir

TENTHS = tuple(tenth / 10 for tenth in range(1, 11))
STEPS = 20
SFT_STEPS = 13  # of those with DPO: no tenth of the run is there


class Stops(Unwatched):
    """Ends a start after that step. Its clock stands still, so that no end moves."""

    spent_s = 0.0

    def __init__(self, at: float) -> None:
        self.at, self.now = at, 0

    def step(self, facts: StepFacts) -> None:
        self.now = facts.step

    def should_stop(self) -> bool:
        return self.now >= self.at


def recipe_of(base_folder: Path, dpo: bool) -> Recipe:
    return make_recipe(base_folder, examples=4 * STEPS, schedule="constant", dpo_share=0.35 if dpo else 0.0)


def measure(monkeypatch: pytest.MonkeyPatch, higher: Mapping[int, float]) -> None:
    """A held-out loss that falls with every step; those that are named measure so many times the lowest so far."""

    def probed(attempt: _Attempt) -> float:
        at = attempt.position
        return higher[at.step] * at.best_value if at.step in higher else 4.0 - 0.1 * at.step

    monkeypatch.setattr(_Attempt, "probed", probed)


def made(recipe: Recipe, run: RunDir, base: LoadedBase, *stops: float) -> Trained:
    """The run, stopped after each of these steps and gone on with."""
    for stop in (*stops, math.inf):
        run.create(recipe)
        watch = Stops(stop)
        horizon = ByHours(recipe, recipe, Decisions(run.path / FILE, recipe), watch, 1e9)
        trained = train(recipe, run, base, watch=watch, rungs=TENTHS, splits=make_splits(recipe), horizon=horizon)
        drop_adapter(trained.model)
    assert trained.outcome == "completed"
    return trained


def made_again(recipe: Recipe, run: RunDir, base: LoadedBase, folder: Path) -> RunDir:
    again = RunDir(folder / "again")
    horizon = Replayed(recipe, recipe, Decisions(run.path / FILE, recipe).read())
    options = {"rungs": TENTHS, "checkpoint_every_s": math.inf}
    drop_adapter(train(recipe, again, base, splits=make_splits(recipe), horizon=horizon, **options).model)  # type: ignore[arg-type]
    return again


def adapter(run: RunDir) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def is_of_step(run: RunDir, step: int) -> bool:
    """Whether the run's adapter has the weights of the checkpoint at that step."""
    held = load_file(run.checkpoints / step_name(step) / "adapter.safetensors")
    kept = load_file(run.adapter / "adapter_model.safetensors")
    assert held.keys() == kept.keys()
    return all(bool((held[name] == kept[name]).all()) for name in held)


@pytest.mark.parametrize("stops", [(), (18,), (19,), (3, 18, 19)])
def test_a_loss_that_rises_at_the_last_tenth_has_the_one_before_kept(
    base_folder: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    recipe, run = recipe_of(base_folder, dpo=False), RunDir(tmp_path / "run")
    measure(monkeypatch, {20: 1.006})
    trained = made(recipe, run, base, *stops)
    assert (trained.steps, trained.back_to) == (20, 18)
    assert is_of_step(run, 18)
    assert [event["step"] for event in run.read_events() if event["event"] == "best"] == [18]
    assert Decisions(run.path / FILE, recipe).read() == [Decision(0, 20, 20)]
    assert adapter(made_again(recipe, run, base, tmp_path)) == adapter(run)


@pytest.mark.parametrize("higher", [{20: 1.004}, {18: 1.1, 20: 1.004}, {16: 1.1}])
def test_a_loss_that_has_not_clearly_risen_by_the_end_has_the_last_step_kept(
    base_folder: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, higher: dict[int, float]
) -> None:
    recipe, run = recipe_of(base_folder, dpo=False), RunDir(tmp_path / "run")
    measure(monkeypatch, higher)
    assert made(recipe, run, base).back_to == 0
    assert is_of_step(run, 20)


def test_two_that_rise_before_the_end_end_the_stage(
    base_folder: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = recipe_of(base_folder, dpo=False), RunDir(tmp_path / "run")
    measure(monkeypatch, {16: 1.1, 18: 1.1})
    trained = made(recipe, run, base, 16)
    assert (trained.steps, trained.back_to) == (18, 14)
    assert is_of_step(run, 14)
    assert Decisions(run.path / FILE, recipe).read()[-1] == Decision(18, 18, 18, "turned")
    assert adapter(made_again(recipe, run, base, tmp_path)) == adapter(run)


@pytest.mark.parametrize("stops", [(), (SFT_STEPS,), (SFT_STEPS + 2,), (12, SFT_STEPS, SFT_STEPS + 1)])
def test_dpo_goes_on_from_the_best_where_the_loss_is_higher_at_the_end_of_the_supervised_stage(
    base_folder: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, ...]
) -> None:
    recipe, run = recipe_of(base_folder, dpo=True), RunDir(tmp_path / "run")
    assert recipe.sft_steps == SFT_STEPS
    measure(monkeypatch, {13: 1.1})
    trained = made(recipe, run, base, *stops)
    assert (trained.steps, trained.back_to) == (20, 12)
    (edge,) = {event["step"] for event in run.read_events() if event["event"] == "edge"}
    assert edge == SFT_STEPS
    assert adapter(made_again(recipe, run, base, tmp_path)) == adapter(run)
    measure(monkeypatch, {})
    plain = RunDir(tmp_path / "plain")
    assert made(recipe, plain, base).back_to == 0
    assert adapter(plain) != adapter(run)


def test_a_best_checkpoint_that_is_damaged_is_told_and_the_end_kept(
    base_folder: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = recipe_of(base_folder, dpo=False), RunDir(tmp_path / "run")
    measure(monkeypatch, {20: 1.006})
    horizon = ByHours(recipe, recipe, Decisions(run.path / FILE, recipe), Stops(19), 1e9)
    run.create(recipe)
    drop_adapter(
        train(recipe, run, base, watch=Stops(19), rungs=TENTHS, splits=make_splits(recipe), horizon=horizon).model
    )
    (run.checkpoints / step_name(18) / "adapter.safetensors").write_bytes(b"")
    assert made(recipe, run, base).back_to == 0
    assert is_of_step(run, 20)
    assert {"event": "damaged", "checkpoints": [step_name(18)]} in run.read_events()
