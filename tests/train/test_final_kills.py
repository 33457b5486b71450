"""A final run that is interrupted at random instants, and made again by its decisions: the same adapter."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest
from tiny_final import PLENTY, Starts, overfitting, recipe_of, start

from train import final
from train.clock import LEASE_S
from train.decisions import FILE, Decisions
from train.final import LEASE, Limits
from train.interrupts import Stopped
from train.recipe import Recipe
from train.rundir import RunDir


@pytest.fixture
def recipe(base_folder: Path, tmp_path: Path) -> Recipe:
    return recipe_of(base_folder, tmp_path)


def adapter(run: RunDir) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def made_again(recipe: Recipe, run: RunDir, limits: Limits) -> RunDir:
    """The same run in another folder, in one go, without a look at its hours."""
    again = RunDir(run.path.with_name("again"))
    again.path.mkdir()
    Decisions(again.path / FILE, recipe).take(run.path / FILE)
    start(recipe, again, limits)
    return again


def interrupted(recipe: Recipe, run: RunDir, limits: Limits, draw: random.Random, times: int, most_s: float) -> None:
    """Start again and again in this process, with SIGTERM at random instants; then let it come to its end."""
    for number in range(times + 1):
        timer = threading.Timer(draw.uniform(0.0, most_s), os.kill, (os.getpid(), signal.SIGTERM))
        if number < times:
            timer.start()
        try:
            start(recipe, run, limits)
        except Stopped:
            continue
        finally:
            timer.cancel()
        return


def test_a_run_that_was_interrupted_is_made_again_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    run, limits = RunDir(tmp_path / "final"), Limits(hours=15 / 3600, longest=PLENTY, checkpoint_minutes=0.02)
    interrupted(recipe, run, limits, random.Random(0), times=5, most_s=2.0)
    facts = final.trained(run)
    assert facts is not None
    assert facts["ended"] in ("pace", "hours")
    assert 0.9 * limits.allowance_s <= facts["seconds"]["train"] <= 1.02 * limits.allowance_s  # a machine may be busy
    held = Decisions(run.path / FILE, recipe).read()
    assert len(held) > 1
    assert facts["steps"] == held[-1].steps
    assert adapter(made_again(recipe, run, limits)) == adapter(run)


def test_a_run_that_overfits_keeps_its_best_adapter_and_is_made_again(base_folder: Path, tmp_path: Path) -> None:
    recipe = overfitting(base_folder, tmp_path)
    run, limits = RunDir(tmp_path / "final"), Limits(hours=1.0, longest=recipe.examples, checkpoint_minutes=0.01)
    interrupted(recipe, run, limits, random.Random(1), times=4, most_s=1.5)
    facts = final.trained(run)
    assert facts is not None
    assert facts["ended"] == "turned"
    assert (facts["back_to"], facts["steps"]) == (28, 36)
    again = made_again(recipe, run, limits)
    assert adapter(again) == adapter(run)
    told = final.trained(again)
    assert told is not None
    assert told["back_to"] == facts["back_to"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [int(os.environ.get("KILL_SEED", "0"))])
def test_fifty_interruptions_cost_a_lease_each_and_no_bit(recipe: Recipe, tmp_path: Path, seed: int) -> None:
    """By SIGKILL and SIGTERM, of processes of their own, at random instants up to 90 % of the allowance."""
    run, limits = RunDir(tmp_path / "final"), Limits(hours=400 / 3600, longest=PLENTY, checkpoint_minutes=0.05)
    starts, draw, count = Starts(recipe, run, limits), random.Random(seed), 0
    lease_s = min(LEASE_S, LEASE * limits.allowance_s)
    while count < 50:
        before_s = starts.spent_s()
        share_s = (0.9 * limits.allowance_s - before_s) / (50 - count)
        process, began = starts.begin()
        process.join(draw.uniform(0.0, max(0.1, 1.8 * share_s - lease_s)))
        assert process.exitcode is None, "the run ended before it was to be interrupted"
        count += 1
        number = draw.choice([signal.SIGKILL, signal.SIGTERM])
        os.kill(process.pid or 0, number)
        process.join(60)
        lived_s = starts.now() - began
        assert process.exitcode in (-number, 128 + number, -signal.SIGTERM)
        assert before_s <= starts.spent_s() <= before_s + lived_s + lease_s, "more than a lease was charged"
        assert starts.charged(before_s), "less was charged than was used"
    process, _ = starts.begin()
    process.join()
    assert process.exitcode == 0
    facts = final.trained(run)
    assert facts is not None
    share = facts["seconds"]["train"] / limits.allowance_s
    assert 0.97 <= share <= 1.0
    held = Decisions(run.path / FILE, recipe).read()
    again = made_again(recipe, run, limits)
    assert adapter(again) == adapter(run)
    sys.stdout.write(
        f"{count} interruptions, {facts['steps']} steps, {len(held)} decisions, {share:.2%} of the allowance used\n"
    )
