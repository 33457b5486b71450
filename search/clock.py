"""The clock that the service reads, as an argument, and the end of a night by it.

Three readings, in seconds, that differ when something out of the ordinary happens:

    now         the wall clock (time.time()): jumps when it is set; only the time of day of a deadline is read from it
    monotonic   CLOCK_MONOTONIC: never jumps and stands still in suspend; leases and everything that is paid
    boottime    CLOCK_BOOTTIME: never jumps and goes on in suspend; tells a set clock from a machine that slept
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from train.until import next_time

JUMP_S = 300.0  # less than this is a correction of the clock, which changes no date


class Clock(Protocol):
    """What the service asks of a clock."""

    def now(self) -> float:
        """The wall clock, in seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds for which the machine was awake."""

    def boottime(self) -> float:
        """Seconds that went by, awake or not."""

    def sleep(self, seconds: float) -> None:
        """Wait. Seconds in suspend do not count."""


class SystemClock:
    """This machine's clocks."""

    def now(self) -> float:
        """The wall clock, in seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot, without those in suspend."""
        return time.monotonic()

    def boottime(self) -> float:
        """Seconds since boot, with those in suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


SYSTEM = SystemClock()


@dataclass(frozen=True)
class Deadline:
    """The end of a night: the first time after its start at which the local clock shows `until`.

    deadline = Deadline.after_now("03:00", clock)
    deadline.left_s(clock)  # below 0 once it has passed, also while the machine slept

    Where the wall clock is set meanwhile, the start is dated by what the clock says now: 03:00 is still 03:00, and of
    the right day. `started` is a reading of the wall clock, `offset_s` what it was ahead of the boottime then.
    """

    until: str
    started: float
    offset_s: float

    @classmethod
    def after_now(cls, until: str, clock: Clock) -> Deadline:
        """The deadline of a night that starts now."""
        return cls(until, clock.now(), clock.now() - clock.boottime())

    def reading(self, clock: Clock) -> float:
        """What the wall clock will show at the deadline."""
        jump_s = clock.now() - clock.boottime() - self.offset_s
        return next_time(self.until, self.started + (jump_s if abs(jump_s) > JUMP_S else 0.0))

    def left_s(self, clock: Clock) -> float:
        """Seconds until the deadline."""
        return self.reading(clock) - clock.now()


def left_s(deadline: Deadline | float | None, clock: Clock) -> float | None:
    """Seconds until the end of the night; None where it has none. A number is a fixed reading of the wall clock."""
    if isinstance(deadline, Deadline):
        return deadline.left_s(clock)
    return None if deadline is None else deadline - clock.now()
