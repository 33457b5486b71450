"""A tiny final run for the tests that interrupt one: its recipe, and one start of it as a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tiny
from tiny_train import make_recipe

from train import final
from train.clock import Clock
from train.interrupts import Signals, Stopped, one_at_a_time
from train.recipe import Probe, Recipe, Source
from train.rundir import RunDir

PLENTY = 400_000  # examples: more than any of these runs comes to


def recipe_of(base_folder: Path, folder: Path, **fields: Any) -> Recipe:
    """A recipe on files in `folder`, with DPO in its last quarter, which learns too slowly to overfit."""
    tiny.write_data(folder)
    sources = (
        Source(name="plain", path=str(folder / "plain.jsonl")),
        Source(name="pairs", path=str(folder / "pairs.jsonl"), use="preference"),
    )
    usual = {"examples": 4000, "dpo_share": 0.25, "learning_rate": 1e-6, "dpo_learning_rate": 1e-7}
    usual |= {"batch_size": 16, "micro_batch_size": 4, "max_length": 256, "chat_template": tiny.TEMPLATE}
    return make_recipe(base_folder, sources=sources, **{**usual, **fields})


def overfitting(base_folder: Path, folder: Path) -> Recipe:
    """A recipe whose held-out answers are digits, and whose data have none: what it learns makes them less likely."""
    fields = {"examples": 160, "batch_size": 4, "dpo_share": 0.0, "learning_rate": 1e-2, "schedule": "constant"}
    recipe = recipe_of(base_folder, folder, **fields)
    rows = [{"prompt": f"count {number}", "response": str(number) * 9} for number in range(100, 140)]
    (folder / "digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digits = Source(name="digits", path=str(folder / "digits.jsonl"), weight=0.0)
    more = {"sources": (*recipe.sources, digits), "probe": Probe(rows=8, sources=("digits",))}
    return Recipe(**{**recipe.model_dump(), **more})


def start(recipe: Recipe, run: RunDir, limits: final.Limits, show: final.Show = lambda _: None) -> None:
    """One start, in this process."""
    run.path.mkdir(parents=True, exist_ok=True)
    with Signals() as signals, one_at_a_time(run):
        final.train_within(recipe, run, "cpu", limits, signals, show)


def child(recipe_json: str, folder: str, limits: final.Limits) -> None:
    """One start, as a process."""
    try:
        start(Recipe.model_validate_json(recipe_json), RunDir(Path(folder)), limits)
    except Stopped as stopped:
        sys.exit(stopped.code)


class Starts:
    """Starts of one run, each a process, and what the test's own clock says of each."""

    def __init__(self, recipe: Recipe, run: RunDir, limits: final.Limits) -> None:
        self.recipe, self.run, self.limits = recipe, run, limits
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["train.loop", "train.dpo", "tiny_final"])  # torch is imported once

    now = staticmethod(time.monotonic)

    def begin(self) -> tuple[BaseProcess, float]:
        """A process that is started, and when it was."""
        arguments = (self.recipe.model_dump_json(), str(self.run.path), self.limits)
        process, began = self._context.Process(target=child, args=arguments), self.now()
        self._events = sum(1 for _ in self.run.read_events())
        process.start()
        return process, began

    def spent_s(self) -> float:
        """What the run's clock says now."""
        return Clock(self.run.clock, self.limits.allowance_s).spent_s

    def charged(self, before_s: float) -> bool:
        """Whether the clock counts at least what the newest start tells of its own steps."""
        new = list(self.run.read_events())[self._events :]
        seconds = [event["seconds"] for event in new if event.get("event") == "step"]
        return not seconds or self.spent_s() >= before_s + seconds[-1] - seconds[0]
