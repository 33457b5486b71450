"""A final run: one recipe, trained within an allowance of hours, over as many starts as it takes.

Its folder is a RunDir with three files more:

    trained.json    what training gave (see `trained`); there once the adapter is safe
    clock.json      process seconds used (see train.clock)
    .lock           held by the process at work

torch is imported when training starts, not before.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from train.clock import Clock
from train.imports import collector_paused
from train.recipe import Recipe, RecipeError
from train.rundir import Json, RunDir, read_json, write_json

if TYPE_CHECKING:
    from train.loop import StepFacts, Trained
    from train.model import LoadedBase

RUNGS = tuple(tenth / 10 for tenth in range(1, 11))  # the probe is measured at each tenth of the horizon
RESERVE = 0.01  # share of the allowance that is kept for saving what was learned, should it run out
PROGRESS_S = 5.0  # between two lines on a terminal
Show = Callable[[str], None]


class Failed(Exception):
    """Training came to nothing (see train.stage.TrainingFailed); the message says where and what to change."""


class Stopped(BaseException):
    """SIGINT or SIGTERM; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """SIGINT and SIGTERM raise Stopped; while `patient`, the first one waits for the next checkpoint instead.

    with Signals() as signals: ...  # the handlers that were there before come back afterwards
    """

    def __init__(self) -> None:
        self.patient = False
        self.number = 0

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, _frame: object) -> None:
        if self.number or not self.patient:
            raise Stopped(number)
        self.number = number


@contextmanager
def one_at_a_time(run: RunDir) -> Iterator[None]:
    """Hold the folder of `run` for this process, making it where it is missing.

    Raises RecipeError where another process holds it. The kernel lets go of the lock however the process ends.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with open(run.path / ".lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(f"another process is at work in {run.path}; wait for it, or end it") from None
        yield


def trained(run: RunDir) -> Json | None:
    """What training gave, or None while it is not done: outcome ("completed", or "stopped" where the hours ran out
    before the horizon), steps, examples, tokens, rungs, seconds, peak_memory_bytes, trainable_parameters."""
    return read_json(run.path / "trained.json")


def train_within(
    recipe: Recipe,
    run: RunDir,
    device: str,
    *,
    hours: float,
    checkpoint_every_s: float,
    signals: Signals,
    show: Show,
) -> LoadedBase:
    """Make run.adapter within `hours` of process time, loading included, unless an earlier start has made it.

    Returns the base model without the adapter. A horizon that the hours do not reach ends at the last step there was
    time for, and its adapter is kept. Raises Stopped, with a checkpoint saved where that was possible; RecipeError;
    Failed.
    """
    with Clock(run.clock, 3600 * hours) if trained(run) is None else nullcontext() as clock:
        with collector_paused():
            from train import checkpoint, loop, model

        base = model.load_base(recipe.base, recipe.threads, device)
        if clock is None:
            return base
        watch = _Watch(recipe, hours, clock, signals, show)
        signals.patient = True
        try:
            made = loop.train(recipe, run, base, watch=watch, rungs=RUNGS, checkpoint_every_s=checkpoint_every_s)
        except loop.TrainingFailed as error:
            raise Failed(str(error)) from error
        signals.patient = False
        if made.outcome != "completed":
            if signals.number:
                raise Stopped(signals.number)
            loop.save_adapter(made.model, run)
        model.drop_adapter(made.model)
    write_json(run.path / "trained.json", _facts(made, clock.spent_s))
    checkpoint.discard(run)
    if signals.number:
        raise Stopped(signals.number)
    return base


def _facts(made: Trained, spent_s: float) -> Json:
    return {
        "outcome": made.outcome,
        "steps": made.steps,
        "examples": made.examples,
        "tokens": made.tokens,
        "rungs": {str(fraction): bits for fraction, bits in made.rungs.items()},
        "seconds": {"train": spent_s},
        "peak_memory_bytes": made.peak_memory_bytes,
        "trainable_parameters": made.trainable_parameters,
    }


class _Watch:
    """Shows progress to a person, and ends training on a signal or when the allowance runs out."""

    def __init__(self, recipe: Recipe, hours: float, clock: Clock, signals: Signals, show: Show) -> None:
        self._recipe, self._hours, self._clock, self._signals, self._show = recipe, hours, clock, signals, show
        self._shown_at = 0.0
        self._probe = ""

    def step(self, facts: StepFacts) -> None:
        """Show a line every few seconds on a terminal, every twentieth of the run elsewhere."""
        now, twentieth = time.monotonic(), max(1, self._recipe.steps // 20)
        if now - self._shown_at >= PROGRESS_S if sys.stdout.isatty() else facts.step % twentieth == 0:
            self._shown_at = now
            spent = spelled(self._clock.spent_s, self._hours)
            self._show(f"step {facts.step} of {self._recipe.steps}  loss {facts.loss:.4f}{self._probe}  {spent}")

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """Remember the probe; a final run is not pruned."""
        self._probe = f"  probe {bits_per_byte:.4f} bits per byte"
        return True

    def should_stop(self) -> bool:
        """Whether a signal came, or no more is left than saving needs."""
        if self._signals.number:
            self._show("saving a checkpoint, then ending; again to end at once")
            return True
        return self._clock.left_s <= RESERVE * 3600 * self._hours


def spelled(spent_s: float, hours: float) -> str:
    """Time used of the allowance, in the unit that reads best."""
    unit, length = ("hours", 3600.0) if hours >= 1 else ("minutes", 60.0)
    return f"{spent_s / length:.2f} of {3600 * hours / length:g} {unit}"


def progress(recipe: Recipe, run: RunDir, hours: float) -> str:
    """How far a run is that has no result yet, in a sentence or two."""
    if trained(run) is not None:
        return "trained; the scores are missing yet"
    last = None
    for event in run.read_events():
        last = event if event.get("event") == "step" else last
    if last is None:
        return "not a step is made yet"
    used = Clock(run.clock, 3600 * hours).spent_s
    left_s = (recipe.steps - last["step"]) * last["seconds"] / last["step"]
    return (
        f"step {last['step']} of {recipe.steps}, loss {last['loss']:.4f}; {spelled(used, hours)} used; "
        f"about {left_s / 3600:.2f} hours to go"
    )
