"""The child process: keeps the base model loaded and takes one RunDir after another: train, probe, score. A finalist's
turn is scored alone: its adapter is there.

    python -m search.worker RUNS TOKEN PARENT_PID DEVICE

It reads RUNS/assignment.json and the RunDir named there, and answers in that RunDir. It ends when its parent dies,
when its lease lapses, or when it is told to. One base model a process: an assignment with another base ends it too,
and the service starts a new one.
"""

from __future__ import annotations

import gc
import hashlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import worker_faults
from search.lease import POLL_S, FileWatch, Lease, die_with_parent
from train.imports import collector_paused
from train.recipe import Base, Recipe
from train.rundir import Json, RunDir, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from search.examination import Examined
    from train.loop import Trained
    from train.model import LoadedBase

ASSIGNMENT = "assignment.json"
OTHER_BASE = 76  # exit code: the next run needs another base model
BROKEN = 77  # exit code: a run may have left the process in a bad state, or has left too much in its memory
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Stopped(Exception):
    """The service asked for a stop while answers were being generated."""


@dataclass
class Worker:
    """What stays from one run to the next: the loaded base model."""

    runs: Path
    token: str
    device: str
    loaded: LoadedBase | None = None
    recipe_base: Base | None = None
    held_bytes: int | None = None  # by tensors, after the first run: libraries keep things of their own from then on
    seconds: dict[str, float] = field(default_factory=dict)

    def serve(self) -> int:
        """Take assignments until told to end; returns the exit code."""
        attempt = 0  # no order has it: the ledger's begin at 1, and an order to end has None
        while True:
            order = read_json(self.runs / ASSIGNMENT)
            if order is None or order["token"] != self.token or order["attempt"] == attempt:
                time.sleep(POLL_S)
                continue
            if order["run"] is None:
                return 0
            attempt = order["attempt"]
            code = self._attempt(RunDir(self.runs / order["run"]), attempt)
            if code:
                return code

    def _attempt(self, run: RunDir, attempt: int) -> int:
        job = read_json(run.job)
        assert job is not None, run.job
        assert job["attempt"] == attempt, (job["attempt"], attempt)
        recipe = run.recipe()
        if self.recipe_base not in (None, recipe.base):
            return OTHER_BASE
        self.seconds = {}
        with Lease(run, attempt):
            try:
                work = {"base": self._base, "trial": self._trial, "fresh": self._fresh}[job["kind"]]
                result = work(run, recipe, job)
            except Exception as error:  # whatever it was, the service has to hear of it
                traceback.print_exc()
                clean = _leaves_the_base_clean(error)
                unfit = self.loaded is None or worker_faults.unfit(job["kind"], recipe, error)
                result = {**self._failure(attempt, error), "broken": not clean}
                write_json(run.result, {**result, "outcome": "stopped", "unfit": True} if unfit else result)
                return 0 if clean else BROKEN
            leaked = self._leaked()
            write_json(run.result, {"attempt": attempt, **result, "seconds": self.seconds, "broken": leaked})
        if result["outcome"] != "stopped":
            self._discard(run)
        return BROKEN if leaked else 0

    def _leaked(self) -> bool:
        """Whether runs have left so much in memory that the next ones are better off in another process."""
        if self.loaded is None:
            return False
        from train import held

        if self.held_bytes is None:
            gc.collect()
            self.held_bytes = held.held_bytes(self.loaded.device)
        return held.leaked(self.held_bytes, self.loaded.device)

    def _discard(self, run: RunDir) -> None:
        """The result is durable; what led to it only takes room."""
        from train import checkpoint

        checkpoint.discard(run)
        for path in run.kept_answers():
            path.unlink()

    def _trial(self, run: RunDir, recipe: Recipe, job: Json) -> Json:
        base = self._load(run, recipe)
        from train import loop, model

        watch = FileWatch(run, job["attempt"])
        trained = loop.train(
            recipe,
            run,
            base,
            watch=watch,
            rungs=tuple(job["rungs"]),
            checkpoint_every_s=job["checkpoint_every_s"],
        )
        try:
            self.seconds |= trained.seconds
            outcome: str = trained.outcome
            scored: Json = {"score": None}
            if outcome == "completed":
                try:
                    made_by = {"adapter": _digest(run.adapter / ADAPTER_WEIGHTS)}
                    scored = self._score(run, recipe, job, base, trained.model, made_by, watch.should_stop)
                except Stopped:
                    outcome = "stopped"
            return {"outcome": outcome, "reason": "", **scored, **_measured(trained)}
        finally:
            model.drop_adapter(trained.model)

    def _base(self, run: RunDir, recipe: Recipe, job: Json) -> Json:
        """The base model as it is: its bits per byte and its score, which every trial has to beat."""
        base = self._load(run, recipe)
        from train import probe
        from train.data.splits import splits

        watch = FileWatch(run, job["attempt"])
        _phase(run, "probe")
        with _timed(self.seconds, "probe"):
            rows = splits(recipe, base.tokenizer, base.context).probe
            bits = probe.bits_per_byte(base, base.model, rows)
        try:
            scored = self._score(run, recipe, job, base, base.model, {}, watch.should_stop)
        except Stopped:
            return {"outcome": "stopped", "reason": "", "score": None}
        return {"outcome": "completed", "reason": "", **scored, "bits_per_byte": bits}

    def _fresh(self, run: RunDir, recipe: Recipe, job: Json) -> Json:
        """A finished adapter's answers to fresh prompts."""
        base = self._load(run, recipe)
        from train import model

        watch = FileWatch(run, job["attempt"])
        adapter = Path(job["adapter"])
        with _timed(self.seconds, "load"):
            tuned = model.load_adapter(base, adapter)
        try:
            made_by = {"adapter": _digest(adapter / ADAPTER_WEIGHTS)}
            scored = self._score(run, recipe, job, base, tuned, made_by, watch.should_stop)
        except Stopped:
            return {"outcome": "stopped", "reason": "", "score": None}
        finally:
            model.drop_adapter(tuned)
        return {"outcome": "completed", **scored}

    def _load(self, run: RunDir, recipe: Recipe) -> LoadedBase:
        if self.loaded is None:
            _phase(run, "load")
            with _timed(self.seconds, "load"):
                with collector_paused():
                    from train import loop, model  # noqa: F401  the loop will be needed, too
                self.loaded = model.load_base(recipe.base, threads=recipe.threads, device=self.device)
                self.recipe_base = recipe.base
        return self.loaded

    def _score(
        self,
        run: RunDir,
        recipe: Recipe,
        job: Json,
        base: LoadedBase,
        model: Any,
        made_by: Mapping[str, str],
        should_stop: Callable[[], bool],
    ) -> Json:
        """Ask the model the prompts of its job; `made_by` tells its weights from others on the same base.

        Every answer is kept on disk as soon as its batch is done, so that a kill costs one batch at most.
        """
        with collector_paused():
            from objectives import generate
            from search import examination

        def stop_if_asked() -> None:
            if should_stop():
                raise Stopped

        _phase(run, "score")
        asked = job["objective"]
        with _timed(self.seconds, "race" if job["kind"] == "fresh" else "score"):
            generator = generate.Generator(
                model,
                base.tokenizer,
                chat_template=recipe.chat_template,
                max_new_tokens=asked["max_new_tokens"],
                batch_size=asked["batch_size"],
                before_batch=stop_if_asked,
            )
            identity = {"base": recipe.base.model_dump(mode="json"), **made_by, "chat_template": recipe.chat_template}
            examined = examination.examine(asked, generator, run.answers, identity)
            write_atomic(run.samples, "".join(json.dumps(sample) + "\n" for sample in examined.samples()))
        return _scored(examined)

    def _failure(self, attempt: int, error: Exception) -> Json:
        reason = f"{type(error).__name__}: {error}"
        return {"attempt": attempt, "outcome": "failed", "reason": reason, "score": None, "seconds": self.seconds}


def _leaves_the_base_clean(error: Exception) -> bool:
    from train.stage import OutOfMemory, TrainingFailed

    return isinstance(error, TrainingFailed) and not isinstance(error, OutOfMemory)


class _timed:
    """Add the seconds of a block to `seconds[cause]`."""

    def __init__(self, seconds: dict[str, float], cause: str) -> None:
        self._seconds, self._cause = seconds, cause

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + time.perf_counter() - self._began


def _phase(run: RunDir, phase: str) -> None:
    run.append_event({"event": "phase", "phase": phase})


def _scored(examined: Examined) -> Json:
    asked, of, behind = len(examined.answers), len(examined.reference), examined.behind
    return {
        "reason": "" if behind is None else f"behind trial {behind} after {asked} of {of} prompts",
        "score": examined.score.model_dump(mode="json"),
        "value": examined.value,
        "race": {"asked": asked, "of": of, "behind": behind},
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measured(trained: Trained) -> Json:
    return {
        "rungs": {str(fraction): bits for fraction, bits in trained.rungs.items()},
        "steps": trained.steps,
        "examples": trained.examples,
        "tokens": trained.tokens,
        "peak_memory_bytes": trained.peak_memory_bytes,
        "trainable_parameters": trained.trainable_parameters,
    }


def main(arguments: list[str]) -> int:
    """Serve until told to end. Interrupts from the terminal are the service's business, not the worker's."""
    runs, token, parent, device = arguments
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Worker(Path(runs), token, device).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
