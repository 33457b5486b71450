"""The child process: keeps the base model loaded and takes one RunDir after another: train, probe, score.

    python -m search.worker RUNS TOKEN PARENT_PID DEVICE

It reads RUNS/assignment.json and the RunDir named there, and answers in that RunDir. It ends when its parent dies,
when its lease lapses, or when it is told to. One base model a process: an assignment with another base ends it too,
and the service starts a new one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.score import Answer, Score
from train.recipe import Base, Recipe
from train.rundir import Json, RunDir, read_json, write_atomic, write_json

if TYPE_CHECKING:
    from train.loop import Trained
    from train.model import LoadedBase

ASSIGNMENT = "assignment.json"
POLL_S = 0.02
LAPSED = 75  # exit code: the lease ran out
OTHER_BASE = 76  # exit code: the next run needs another base model
BROKEN = 77  # exit code: a run raised something that may have left the process in a bad state
PR_SET_PDEATHSIG = 1


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
    seconds: dict[str, float] = field(default_factory=dict)

    def serve(self) -> int:
        """Take assignments until told to end; returns the exit code."""
        attempt = None
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
                result = self._base(run, recipe, job) if job["kind"] == "base" else self._trial(run, recipe, job)
            except Exception as error:  # whatever it was, the service has to hear of it
                traceback.print_exc()
                clean = _leaves_the_base_clean(error)
                write_json(run.result, {**self._failure(attempt, error), "broken": not clean})
                return 0 if clean else BROKEN
            write_json(run.result, {"attempt": attempt, **result, "seconds": self.seconds})
        if result["outcome"] != "stopped":
            self._discard_checkpoints(run)
        return 0

    def _discard_checkpoints(self, run: RunDir) -> None:
        """The result is durable; what led to it only takes room."""
        from train import checkpoint

        checkpoint.discard(run)

    def _trial(self, run: RunDir, recipe: Recipe, job: Json) -> Json:
        from train import loop, model

        base = self._load(run, recipe)
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
            outcome = trained.outcome
            score = None
            if outcome == "completed":
                try:
                    score = self._score(run, recipe, job, base, trained.model, watch.should_stop)
                except Stopped:
                    outcome = "stopped"
            return {"outcome": outcome, "reason": "", "score": _dump(score), **_measured(trained)}
        finally:
            model.drop_adapter(trained.model)

    def _base(self, run: RunDir, recipe: Recipe, job: Json) -> Json:
        """The base model as it is: its bits per byte and its score, which every trial has to beat."""
        from train import probe
        from train.data.splits import splits

        base = self._load(run, recipe)
        watch = FileWatch(run, job["attempt"])
        _phase(run, "probe")
        with _timed(self.seconds, "probe"):
            rows = splits(recipe, base.tokenizer, base.context).probe
            bits = probe.bits_per_byte(base, base.model, rows)
        try:
            score = self._score(run, recipe, job, base, base.model, watch.should_stop)
        except Stopped:
            return {"outcome": "stopped", "reason": "", "score": None}
        return {"outcome": "completed", "reason": "", "score": _dump(score), "bits_per_byte": bits}

    def _load(self, run: RunDir, recipe: Recipe) -> LoadedBase:
        if self.loaded is None:
            _phase(run, "load")
            with _timed(self.seconds, "load"):
                from train import model

                self.loaded = model.load_base(recipe.base, threads=recipe.threads, device=self.device)
                self.recipe_base = recipe.base
        return self.loaded

    def _score(
        self, run: RunDir, recipe: Recipe, job: Json, base: LoadedBase, model: Any, should_stop: Callable[[], bool]
    ) -> Score:
        """Score on the first `subset` prompts of the search half; the sealed half is never opened here."""
        from objectives import generate, ifeval, subset

        def stop_if_asked() -> None:
            if should_stop():
                raise Stopped

        def answer(prompts: list[str]) -> list[Answer]:
            answers.extend(generator(prompts))
            return answers

        _phase(run, "score")
        asked = job["objective"]
        answers: list[Answer] = []
        with _timed(self.seconds, "score"):
            search_half, _ = subset.halves(ifeval.load_prompts(Path(asked["prompts"])))
            chosen = subset.take(search_half, asked["subset"])
            generator = generate.Generator(
                model,
                base.tokenizer,
                chat_template=recipe.chat_template,
                max_new_tokens=asked["max_new_tokens"],
                batch_size=asked["batch_size"],
                before_batch=stop_if_asked,
            )
            score = ifeval.IFEval(chosen).score(answer)
            lines = (json.dumps(sample) + "\n" for sample in ifeval.samples(chosen, answers, score))
            write_atomic(run.samples, "".join(lines))
            return score

    def _failure(self, attempt: int, error: Exception) -> Json:
        reason = f"{type(error).__name__}: {error}"
        return {"attempt": attempt, "outcome": "failed", "reason": reason, "score": None, "seconds": self.seconds}


@dataclass(frozen=True)
class FileWatch:
    """Answers the training loop's questions out of the RunDir's files."""

    run: RunDir
    attempt: int

    def step(self, facts: object) -> None:
        """Nothing to add: the loop itself writes the event."""

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """Wait for the service's verdict on this rung."""
        while True:
            verdict = read_json(self.run.verdict)
            if verdict and (verdict["attempt"], verdict["fraction"]) == (self.attempt, fraction):
                return bool(verdict["go_on"])
            time.sleep(POLL_S)

    def should_stop(self) -> bool:
        """Whether the service has asked this attempt to save and end."""
        stop = read_json(self.run.stop)
        return stop is not None and stop["attempt"] == self.attempt


class Lease:
    """Ends the process once the time that is paid for is over, so that a hung service cannot run unpaid time."""

    def __init__(self, run: RunDir, attempt: int) -> None:
        self._run = run
        self._attempt = attempt
        self._over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._guard, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _guard(self) -> None:
        while not self._over.wait(0.25):
            lease = read_json(self._run.lease)
            if lease is None or lease["attempt"] != self._attempt or time.monotonic() > lease["paid_until"]:
                sys.stderr.write(f"worker: the lease of attempt {self._attempt} has lapsed\n")
                sys.stderr.flush()
                os._exit(LAPSED)


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


def _dump(score: Score | None) -> Json | None:
    return score.model_dump(mode="json") if score else None


def _measured(trained: Trained) -> Json:
    return {
        "rungs": {str(fraction): bits for fraction, bits in trained.rungs.items()},
        "steps": trained.steps,
        "examples": trained.examples,
        "tokens": trained.tokens,
        "peak_memory_bytes": trained.peak_memory_bytes,
        "trainable_parameters": trained.trainable_parameters,
    }


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (prctl PR_SET_PDEATHSIG), also if it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(LAPSED)


def main(arguments: list[str]) -> int:
    """Serve until told to end. Interrupts from the terminal are the service's business, not the worker's."""
    runs, token, parent, device = arguments
    die_with_parent(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Worker(Path(runs), token, device).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
