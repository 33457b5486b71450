"""What is looked at before a final run uses a second."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_train import make_recipe

from train import preflight
from train.card import Card
from train.planning.plan import BaseFacts, inspect_base, plan
from train.recipe import Recipe, RecipeError
from train.rundir import RunDir

SMALL = Card("NVIDIA Tiny 1", 2**20, "550.1")
LARGE = Card("NVIDIA Large 9", 80 * 2**30, "550.1")


@pytest.fixture
def facts(base_folder: Path) -> BaseFacts:
    return inspect_base(str(base_folder))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "final")


def check(recipe: Recipe, facts: BaseFacts, run: RunDir, card: Card | None = None, hours: float = 24.0) -> None:
    preflight.check(recipe, facts, run, card, hours, least_hours=0.5)


def test_a_run_that_fits_is_let_pass_and_nothing_is_written(recipe: Recipe, facts: BaseFacts, run: RunDir) -> None:
    check(recipe, facts, run)
    check(recipe, facts, run, LARGE)
    assert not run.path.exists()


def test_fewer_hours_than_a_minimum_are_refused_with_it(recipe: Recipe, facts: BaseFacts, run: RunDir) -> None:
    with pytest.raises(RecipeError, match=r"^0\.4 hours are too few .*: it takes at least 0\.5$"):
        check(recipe, facts, run, hours=0.4)
    with pytest.raises(RecipeError, match=r"^0\.5 hours are too few .*: it takes at least 0\.51$"):
        preflight.check(recipe, facts, run, None, hours=0.5, least_hours=0.501)


def test_a_card_that_is_too_small_is_refused_with_what_is_needed(recipe: Recipe, facts: BaseFacts, run: RunDir) -> None:
    needed = plan(recipe, facts, "cuda").peak_bytes
    said = rf"needs {needed / 2**20:.1f} MiB .*, 0\.1 MiB more than the NVIDIA Tiny 1 here has: make it on"
    with pytest.raises(RecipeError, match=said):
        check(recipe, facts, run, replace(SMALL, memory_bytes=needed - 1))


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - free, free))


def test_a_disk_without_room_for_the_checkpoints_is_refused(
    facts: BaseFacts, base_folder: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(base_folder, rank=64)
    needed = round(preflight.BEST * plan(recipe, facts, "cpu").disk_bytes)
    full(monkeypatch, needed - 2**20)
    with pytest.raises(
        RecipeError, match=rf"take {needed / 2**20:.1f} MiB on .*, 1\.0 MiB more than are free: make room"
    ):
        check(recipe, facts, run)
    run.path.mkdir()
    (run.path / "written").write_bytes(bytes(2**20))  # by an earlier start: it is among what was needed
    check(recipe, facts, run)


def test_all_that_is_wrong_is_told_at_once(
    recipe: Recipe, facts: BaseFacts, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, 1)
    with pytest.raises(RecipeError) as caught:
        check(recipe, facts, run, SMALL, hours=0.1)
    assert [part.split()[0] for part in str(caught.value).split("; ")] == ["0.1", "this", "checkpoints"]


def test_a_run_on_the_cpu_asks_for_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert preflight.card_for("cpu") is None
    with pytest.raises(RecipeError, match=r"needs a CUDA device, but there is no nvidia-smi.*another machine"):
        preflight.card_for("cuda")


def test_the_card_is_the_one_that_the_driver_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA Tiny 1, 1, 550.1\n")
    os.chmod(program, 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert preflight.card_for("cuda") == SMALL
