"""A final run: its hours, its interruptions, and that its adapter does not depend on them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_train import make_recipe

from train import final, status
from train.clock import spelled
from train.decisions import FILE, Decisions
from train.final import Limits
from train.horizon import Decision
from train.hours import LATEST
from train.interrupts import Signals, Stopped, one_at_a_time
from train.recipe import Recipe, RecipeError, Source
from train.rundir import RunDir, write_json

HOURS = 1.0


@pytest.fixture(scope="session")
def long_recipe(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Twenty steps, the last five of them DPO, on files."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_data(folder)
    sources = (
        Source(name="plain", path=str(folder / "plain.jsonl")),
        Source(name="pairs", path=str(folder / "pairs.jsonl"), use="preference"),
    )
    return make_recipe(
        base_folder, sources=sources, examples=80, dpo_share=0.25, max_length=256, chat_template=tiny.TEMPLATE
    )


def train(recipe: Recipe, run: RunDir, show: Callable[[str], None] = lambda _: None, **limits: Any) -> None:
    """With data for the recipe's own steps alone, if nothing else is said."""
    run.path.mkdir(exist_ok=True)
    held = Limits(**{"hours": HOURS, "longest": recipe.examples, "checkpoint_minutes": 1e9, **limits})
    with Signals() as signals:
        final.train_within(recipe, run, "cpu", held, signals, show)


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("whole") / "final")
    train(long_recipe, run)
    return run


def test_a_run_leaves_its_adapter_and_its_facts(long_recipe: Recipe, uninterrupted: RunDir) -> None:
    facts = final.trained(uninterrupted)
    assert facts is not None
    assert (facts["outcome"], facts["ended"], facts["adapter_step"]) == ("completed", "data", 20)
    assert (facts["steps"], facts["examples"]) == (20, 80)
    assert [float(fraction) for fraction in facts["rungs"]] == list(final.RUNGS)
    assert facts["seconds"]["train"] > 0
    assert (uninterrupted.adapter / "adapter_config.json").exists()
    assert not uninterrupted.checkpoints.exists()
    assert status.progress(long_recipe, uninterrupted, HOURS).endswith(
        "the data bear no more; the scores are missing yet"
    )


def test_a_second_start_does_not_train_again(long_recipe: Recipe, uninterrupted: RunDir) -> None:
    before = (digest(uninterrupted), uninterrupted.events.read_bytes(), uninterrupted.clock.read_bytes())
    train(long_recipe, uninterrupted, show=pytest.fail)
    assert (digest(uninterrupted), uninterrupted.events.read_bytes(), uninterrupted.clock.read_bytes()) == before


def interrupter(number: int, at: int) -> Callable[[str], None]:
    """Sends this process a signal when the line of step `at` is shown."""

    def show(line: str) -> None:
        if line.startswith(f"step {at} of"):
            os.kill(os.getpid(), number)

    return show


@pytest.mark.parametrize("steps", [(1,), (4, 10, 17)])
def test_signals_cost_nothing_but_time(
    long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    run = RunDir(tmp_path / "final")
    for at in steps:
        with pytest.raises(Stopped) as stopped:
            train(long_recipe, run, interrupter(signal.SIGTERM, at))
        assert stopped.value.code == 128 + signal.SIGTERM
        assert final.trained(run) is None
        assert f"step {at} of 20 (" in status.progress(long_recipe, run, HOURS)
    train(long_recipe, run)
    assert digest(run) == digest(uninterrupted)
    assert sum(event["event"] == "resumed" for event in run.read_events()) == len(steps)


def test_a_signal_after_the_last_step_loses_nothing(long_recipe: Recipe, uninterrupted: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGINT, 20))
    assert final.trained(run) == {**(final.trained(run) or {}), "outcome": "completed"}
    train(long_recipe, run, show=pytest.fail)
    assert digest(run) == digest(uninterrupted)


def test_hours_that_run_out_keep_what_was_learned(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 3600 * HOURS * LATEST - 0.5})
    lines: list[str] = []
    train(long_recipe, run, lines.append)
    facts = final.trained(run)
    assert facts is not None
    assert (facts["outcome"], facts["ended"]) == ("completed", "hours")
    assert 1 <= facts["steps"] < 20
    assert (run.adapter / "adapter_model.safetensors").exists()
    assert facts["seconds"]["train"] <= 3600 * HOURS


def test_a_start_for_which_no_time_is_left_keeps_the_newest_checkpoint(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with pytest.raises(Stopped):
        train(long_recipe, run, interrupter(signal.SIGTERM, 4))
    spent_s = 3600 * HOURS - 0.2
    write_json(run.clock, {"spent_s": spent_s})
    train(long_recipe, run)
    facts = final.trained(run)
    assert facts is not None
    assert (facts["ended"], facts["steps"], facts["seconds"]) == ("hours", 4, {"train": spent_s})
    assert Decisions(run.path / FILE, long_recipe).read()[-1] == Decision(4, 4, 4, "hours")


def test_hours_that_are_used_up_without_a_checkpoint_are_told(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    write_json(run.clock, {"spent_s": 3600 * HOURS})
    with pytest.raises(final.Failed, match=r"the hours are used up, and .* has no checkpoint; move it away"):
        train(long_recipe, run)


def test_hours_that_loading_uses_up_are_too_few(long_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"loading alone took .* give it at least .* hours"):
        train(long_recipe, RunDir(tmp_path / "final"), hours=1e-6)


def test_signals_outside_training_end_at_once() -> None:
    with Signals(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_signal_does_not_wait() -> None:
    with Signals() as signals:
        signals.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    with (
        one_at_a_time(run),
        pytest.raises(RecipeError, match="another process is at work"),
        one_at_a_time(run),
    ):
        pass
    with one_at_a_time(run):
        pass


def test_training_that_fails_says_what_to_change(long_recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "final")
    run.path.mkdir()
    run.checkpoints.write_text("in the way")
    with pytest.raises(final.Failed, match=r"cannot be written to .*checkpoints"):
        train(long_recipe, run)
    assert final.trained(run) is None


def test_before_the_first_step_there_is_nothing_to_tell(long_recipe: Recipe, tmp_path: Path) -> None:
    assert status.progress(long_recipe, RunDir(tmp_path), HOURS) == "not a step is made yet"


@pytest.mark.parametrize(
    ("spent_s", "hours", "text"), [(5400.0, 24.0, "1.50 of 24 hours"), (30.0, 0.025, "0.50 of 1.5 minutes")]
)
def test_time_is_told_in_the_unit_that_reads_best(spent_s: float, hours: float, text: str) -> None:
    assert spelled(spent_s, 3600 * hours) == text


def test_importing_it_is_cheap() -> None:
    program = "import sys, train.final; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False"]
