"""How far a final run is, in words: read from its files, while it is at work or not. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from train.clock import Clock, spelled
from train.decisions import FILE, Decisions
from train.final import ended, trained
from train.horizon import WORDS, Decision
from train.interrupts import at_work
from train.recipe import Recipe
from train.rundir import Json, RunDir

TOLD = 8  # decisions about the end, of which the first is what was frozen
RECENT = 0.05  # share of the steps made whose pace counts


def progress(recipe: Recipe, run: RunDir, hours: float, now: float | None = None) -> str:
    """How far a run is whose result is not there yet. `now` is a reading of the wall clock."""
    if made := trained(run):
        spent = spelled(made["seconds"]["train"], 3600 * hours)
        return f"trained, {made['steps']:,} steps in {spent}: {ended(made)}; the scores are missing yet"
    events, decisions = list(run.read_events()), Decisions(run.path / FILE, recipe)
    steps = {event["step"]: event for event in events if event.get("event") == "step"}
    spent_s, allowance_s = Clock(run.clock, 3600 * hours).spent_s, 3600 * hours
    working = at_work(run)
    starts = sum(event.get("event") == "start" for event in events)
    used = f"used: {spelled(spent_s, allowance_s)}, over {starts} start{'' if starts == 1 else 's'}"
    used += "; at work now" if working else "; not at work: start it again, and it goes on" if spent_s else ""
    if not steps:
        return "not a step is made yet" + (f"\n{used}" if spent_s or working else "")
    held = decisions.read() or [Decision(0, recipe.sft_steps, recipe.steps)]
    end, last = held[-1].steps, _newest(events)
    left_s = max(0, end - last["step"]) * _each_s(steps, last["step"])
    if not decisions.replayed:
        left_s = min(left_s, max(0.0, allowance_s - spent_s))
    lines = [_where(last, end, events), used, _to_go(left_s, time.time() if now is None else now, working=working)]
    if decisions.replayed:
        lines.append("its end is that of another run, which it makes again")
    return "\n".join([*lines, *_decided(held)])


def from_where(run: RunDir) -> str:
    """What a further start will do, once this one was stopped."""
    if trained(run):
        return "start it again, and it goes on with the scores; the answers so far are kept"
    if any(run.checkpoints.glob("step-*")):
        return "start it again, and it goes on from its newest checkpoint"
    return "start it again, and it begins with its first step"


def _newest(events: Sequence[Json]) -> Json:
    """The newest step, which after a kill is not the one with the largest number."""
    return next(event for event in reversed(events) if event.get("event") == "step")


def _where(last: Json, end: int, events: Sequence[Json]) -> str:
    probe = next((event["bits_per_byte"] for event in reversed(events) if event.get("event") == "rung"), None)
    probed = "" if probe is None else f", {probe:.4f} bits per byte at the last probe"
    return f"step {last['step']:,} of {end:,} ({last['step'] / end:.0%}), loss {last['loss']:.4f}{probed}"


def _each_s(steps: dict[int, Json], last: int) -> float:
    """Seconds a step of the newest ones, with what lies between them."""
    first = max((step for step in steps if step <= last - max(1, RECENT * last)), default=None)
    if first is None:
        return float(steps[last]["seconds"]) / last
    return float(steps[last]["seconds"] - steps[first]["seconds"]) / (last - first)


def _to_go(left_s: float, now: float, *, working: bool) -> str:
    hours = f"{left_s / 3600:.2f} hours" if left_s >= 3600 else f"{left_s / 60:.1f} minutes"
    when = datetime.fromtimestamp(now + left_s).strftime("%a %d %b, %H:%M")
    return f"to go: about {hours}; without a break until {when}" if working else f"to go: about {hours}"


def _decided(held: Sequence[Decision]) -> Iterator[str]:
    yield "its end, as it was decided:"
    told = held if len(held) <= TOLD else [held[0], *held[1 - TOLD :]]
    for number, decision in enumerate(told):
        if number == 1 and len(told) < len(held):
            yield f"  ({len(held) - len(told)} more)"
        after = f"after step {decision.step:,}: " if decision.step else ""
        yield f"  step {decision.steps:>8,}   {after}{WORDS[decision.why]}"
