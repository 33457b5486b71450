"""Who looks on at a final run: shows it to a person, and ends a start on a signal or before a known switch-off."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence

from train.clock import Clock, spelled
from train.horizon import WORDS, Horizon
from train.interrupts import Signals, Stopped
from train.rundir import RunDir
from train.until import Until
from train.watch import StepFacts

PROGRESS_S = 5.0  # between two lines on a terminal; elsewhere there is one for each twentieth of the run
WORTH_TELLING = 0.02  # share of the run by which its end moves
UNTIL_S = 60.0  # before a switch-off: what nobody foresees
Show = Callable[[str], None]


class Witness:
    """The watch of a final run (see train.watch.Watch)."""

    def __init__(
        self,
        run: RunDir,
        horizon: Horizon,
        clock: Clock,
        allowance_s: float,
        signals: Signals,
        until: Until | None,
        show: Show,
    ) -> None:
        self._run, self._horizon, self._clock, self._allowance_s = run, horizon, clock, allowance_s
        self._signals, self._until, self._show = signals, until, show
        self._probe, self._told_end, self._twentieth = "", 0, -1
        self._shown_at, self._stepped_at = 0.0, math.nan
        self._longest_s = 0.0

    def begins(self, step: int, damaged: Sequence[str]) -> None:
        """Show where this start goes on from, and which checkpoints it could not use."""
        for name in damaged:
            self._show(f"checkpoint {name} is damaged, and passed over")
        if step:
            self._show(f"going on from the checkpoint of step {step:,}")
        elif damaged:
            self._show("no checkpoint is whole: beginning again at step 1; what was used of the hours stays used")

    def step(self, facts: StepFacts) -> None:
        """Show a line now and then, and where the end has moved by something."""
        now = time.monotonic()
        if math.isnan(self._stepped_at):
            self._run.append_event({"event": "under_way", "took_s": self._clock.here_s})
        else:
            self._longest_s = max(self._longest_s, now - self._stepped_at)
        self._stepped_at = now
        self._tell_end()
        twentieth = int(20 * self._horizon.course.progress(facts.step))
        if now - self._shown_at >= PROGRESS_S if sys.stdout.isatty() else twentieth != self._twentieth:
            self._shown_at, self._twentieth = now, twentieth
            spent = spelled(self._clock.spent_s, self._allowance_s)
            end = self._horizon.course.now.steps
            self._show(f"step {facts.step:,} of {end:,}  loss {facts.loss:.4f}{self._probe}  {spent}")

    def _tell_end(self) -> None:
        now, before = self._horizon.course.now, self._told_end
        if before and abs(now.steps - before) <= WORTH_TELLING * before:
            return
        self._told_end = now.steps
        if before:
            self._show(f"the end is at step {now.steps:,} now, not at {before:,}: {WORDS[now.why]}")

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """Remember the probe; a final run is not pruned."""
        self._probe = f"  probe {bits_per_byte:.4f} bits per byte"
        return True

    def should_stop(self) -> bool:
        """Whether a signal came, the switch-off is near, or the clock cannot be paid."""
        if self._clock.unwritten:
            raise self._clock.unwritten
        if self._signals.number:
            self._show("saving a checkpoint, then ending; again to end at once")
            return True
        return self._until is not None and self._until.left_s <= 2 * self._longest_s + UNTIL_S

    def stopped(self) -> Stopped:
        """What ended this start, once training has stopped."""
        if self._signals.number:
            return Stopped.by(self._signals.number)
        assert self._until is not None
        return Stopped(f"saved, since it is nearly {self._until.time_of_day}", 0)
