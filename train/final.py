"""A final run: one recipe, trained within an allowance of hours, over as many starts as it takes.

Its folder is a RunDir with four files more:

    trained.json    what training gave (see `trained`); there once the adapter is safe
    clock.json      process seconds used (see train.clock)
    horizon.jsonl   the decisions about its end (see train.decisions)
    .lock           held by the process at work

and two events more: `start`, and `under_way`: `took_s`, the seconds that a start took to the end of its first step,
loading included. torch is imported when training starts, not before.
"""

from __future__ import annotations

import gc
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from train.clock import LEASE_S, Clock, spelled
from train.deadline import HoursOver, deadline
from train.decisions import FILE, Decisions
from train.hours import LATEST, ByHours, Replayed
from train.imports import collector_paused
from train.interrupts import Signals, Stopped
from train.recipe import Recipe, RecipeError
from train.rundir import Json, RunDir, taken, write_json
from train.until import Until
from train.witness import UNTIL_S, Show, Witness

if TYPE_CHECKING:
    from train.loop import Trained
    from train.model import LoadedBase

_ENDED = {
    "turned": "the held-out loss had turned",
    "replayed": "where the run ended that it makes again",
    "data": "the data bear no more",
    "recipe": "all steps that were frozen",
}
FACTS = (  # in trained.json
    *("outcome", "ended", "steps", "examples", "tokens", "seconds", "rungs", "peak_memory_bytes"),
    *("trainable_parameters", "back_to"),
)
RUNGS = tuple(tenth / 10 for tenth in range(1, 11))  # the probe is measured at each tenth of the horizon
END = 0.999  # share of the allowance at which a start that is still at work is broken off
LEASE = 0.01  # of a short allowance, what a kill may cost at most


class Failed(Exception):
    """Training came to nothing (see train.stage.TrainingFailed); the message says where and what to change."""


@dataclass(frozen=True)
class Limits:
    """What a run may use: hours of process time in all, and `longest` examples, which is what its data bear.

    `until` is when this start is to have saved; `checkpoint_minutes` what a kill may cost at most.
    """

    hours: float
    longest: int
    checkpoint_minutes: float
    until: Until | None = None

    @property
    def allowance_s(self) -> float:
        return 3600 * self.hours


def trained(run: RunDir) -> Json | None:
    """What training gave, or None while it is not done: the fields of train.trained.Trained but for the model, with

    seconds   train: process seconds used in all
    ended     why the run ended where it did (train.horizon.Why, or "replayed")
    """
    return taken(run.path / "trained.json", _whole, "put the whole file back; the run would have to be made again")


def _whole(facts: Json) -> Json:
    if missing := [name for name in FACTS if name not in facts]:
        raise KeyError(missing[0])
    spent(facts, hours=1.0)  # which looks into some of them
    return facts


def train_within(recipe: Recipe, run: RunDir, device: str, limits: Limits, signals: Signals, show: Show) -> LoadedBase:
    """Make run.adapter within the hours of `limits`, loading included, unless an earlier start has made it.

    Returns the base model without the adapter. The run ends when its hours are used, when its data bear no more or when
    the held-out loss has turned; one that replays another one's decisions ends as that did, whatever its clock says.
    Raises Stopped, with a checkpoint saved where that was possible; RecipeError; Failed.
    """
    if trained(run) is not None:
        return _loaded(recipe, device)
    needed_s, until = _needed_s(run), limits.until
    if until and until.left_s <= needed_s + UNTIL_S:
        raise Stopped(f"not begun, since it is nearly {until.time_of_day}", 0)
    decisions, clock = Decisions(run.path / FILE, recipe), _clock(run, limits)
    if until:
        show(f"everything is to be saved before {until.told}")
    if decisions.replayed:
        show("its end is that of another run, which it makes again, whatever its own clock says")
    run.append_event({"event": "start"})
    start = _Start(recipe, run, device, limits, signals, show, decisions, clock)
    made = None
    if decisions.replayed or clock.spent_s + needed_s < LATEST * limits.allowance_s:
        made = start.within_hours()
    if made is None:
        show("no time is left for a further step: the newest checkpoint is the result")
        made = start.made(over=True)
    decisions.end(made.steps)
    write_json(run.path / "trained.json", _facts(made, start.horizon, clock.spent_s))
    _discard(run)
    if signals.number:
        raise Stopped.by(signals.number)
    return start.base


@dataclass
class _Start:
    """One start of a run; its base model is loaded once, and is without the adapter in between."""

    recipe: Recipe
    run: RunDir
    device: str
    limits: Limits
    signals: Signals
    show: Show
    decisions: Decisions
    clock: Clock
    horizon: ByHours | Replayed = field(init=False)

    @cached_property
    def base(self) -> LoadedBase:
        return _loaded(self.recipe, self.device)

    def within_hours(self) -> Trained | None:
        """Train on, by the clock; None where the hours run out before a step more is saved, and a checkpoint is there.

        Whatever is done when they do is broken off, so that no more than the hours are used.
        """
        before_s, last_s = self.clock.before_s, END * self.limits.allowance_s
        try:
            with self.clock:
                _import()  # what is broken off there cannot be begun again in this process
                with nullcontext() if self.decisions.replayed else deadline(self.clock, last_s):
                    return self.made(over=False)
        except HoursOver:
            if "base" not in vars(self) and not any(self.run.checkpoints.glob("step-*")):
                used_s = self.clock.spent_s - before_s
                raise RecipeError(_too_few(used_s, before_s, self.limits.allowance_s)) from None
        vars(self).pop("base", None)  # it may have been broken off while the adapter was put on or taken off
        gc.collect()
        return None

    def made(self, *, over: bool) -> Trained:
        """Train, from the newest checkpoint on, or end there where the hours are `over`."""
        from train import checkpoint, loop, model

        base, run, limits = self.base, self.run, self.limits
        if over and checkpoint.newest(run) is None:
            raise Failed(f"the hours are used up, and {run.path} has no checkpoint; move it away and begin anew")
        self.horizon = _horizon(self.recipe, run, limits, self.decisions, self.clock, over)
        witness = Witness(run, self.horizon, self.clock, limits.allowance_s, self.signals, limits.until, self.show)
        every_s = 60 * limits.checkpoint_minutes
        self.signals.patient = True
        try:
            made = loop.train(
                self.recipe, run, base, watch=witness, rungs=RUNGS, checkpoint_every_s=every_s, horizon=self.horizon
            )
        except loop.TrainingFailed as error:
            raise Failed(str(error)) from error
        except OSError as error:
            where = error.filename or run.path
            raise Failed(f"{where}: {error.strerror or error}; mend that, and start again: it goes on") from error
        self.signals.patient = False
        model.drop_adapter(made.model)
        if made.outcome != "completed":
            raise witness.stopped()
        return made


def _import() -> None:
    with collector_paused():
        from train import loop

        assert loop  # with all of its libraries


def _loaded(recipe: Recipe, device: str) -> LoadedBase:
    _import()
    from train import model

    return model.load_base(recipe.base, recipe.threads, device)


def _discard(run: RunDir) -> None:
    from train import checkpoint

    checkpoint.discard(run)


def _clock(run: RunDir, limits: Limits) -> Clock:
    return Clock(run.clock, limits.allowance_s, min(LEASE_S, LEASE * limits.allowance_s))


def _horizon(
    recipe: Recipe, run: RunDir, limits: Limits, decisions: Decisions, clock: Clock, over: bool
) -> ByHours | Replayed:
    longest = recipe.model_copy(update={"examples": max(recipe.examples, limits.longest)})
    if decisions.replayed:
        return Replayed(recipe, longest, decisions.read())
    pause_s = longest_pause_s(run)
    return ByHours(recipe, longest, decisions, clock, limits.allowance_s, longest_s=pause_s, over=over)


def _needed_s(run: RunDir) -> float:
    """Seconds that a start takes until a step is made and saved, as far as earlier ones tell."""
    starts = [event["took_s"] for event in run.read_events() if event.get("event") == "under_way"]
    return 1.1 * max(starts, default=0.0) + 2 * longest_pause_s(run)


def longest_pause_s(run: RunDir) -> float:
    """The longest that any step had to wait for a checkpoint and a probe."""
    longest, stepped = 0.0, math.inf
    for event in run.read_events():
        if event.get("event") == "step":
            stepped = event["seconds"]
        elif event.get("event") in ("rung", "checkpoint", "edge"):
            longest = max(longest, event["seconds"] - stepped)
        else:
            stepped = math.inf
    return longest


def _too_few(here_s: float, before_s: float, allowance_s: float) -> str:
    earlier = f", of which earlier starts had used {before_s:.0f}" if before_s else ""
    return (
        f"loading took all that was left, {here_s:.0f} seconds, and was not done; the run may use {allowance_s:.0f}"
        f"{earlier}: give it more hours (`hours` under [final] in its study.toml), and freeze again"
    )


def _facts(made: Trained, horizon: ByHours | Replayed, spent_s: float) -> Json:
    kept = {key: value for key, value in vars(made).items() if key not in ("model", "seconds", "rungs")}
    last = horizon.course.now
    ended: str = "data" if made.steps >= horizon.most.steps else last.why
    if isinstance(horizon, Replayed):
        ended = "replayed"
    return {
        **kept,
        "rungs": {str(fraction): bits for fraction, bits in made.rungs.items()},
        "seconds": {"train": spent_s},
        "ended": "turned" if last.why == "turned" else ended,
    }


def spent(result: Json, hours: float) -> str:
    """What a run was trained on, its time of the hours, and why it ended, in a line."""
    used = spelled(result["seconds"]["train"], 3600 * hours)
    return f"{result['examples']:,} examples in {used} ({ended(result)})"


def ended(result: Json) -> str:
    """Why a run ended where it did, and what it went back to, as the end of a sentence."""
    why = _ENDED.get(result["ended"], "its hours are used")
    if not (best := result["back_to"]):
        return why
    risen = "" if result["ended"] == "turned" else "; the held-out loss had risen by then"
    return f"{why}{risen}: what was learned up to step {best:,} of {result['steps']:,} was kept"
