"""The clock of a final run: process seconds over as many nights as it takes, paid before they are used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from train.recipe import RecipeError
from train.rundir import read_json, write_json

LEASE_S = 10.0


class Clock:
    """Counts the seconds that processes spend on one run, against an allowance. Time between processes is free.

    with Clock(run.clock, allowance_s=24 * 3600) as clock:  # pays the first lease, and goes on paying in a thread
        while clock.tick():                                 # False once the allowance is used up
            ...                                             # leaving the block refunds what was not used

    `path` always holds at least what was used: a lease of `lease_s` seconds is written, durably, before it begins. A
    kill therefore costs at most one lease too much and never counts too little. The reading of `now` must not run
    while the machine sleeps (CLOCK_MONOTONIC does not).
    """

    def __init__(
        self, path: Path, allowance_s: float, lease_s: float = LEASE_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._allowance_s, self._lease_s, self._now = path, allowance_s, lease_s, now
        self.before_s = self._paid_s = _read(path)  # before_s: seconds that were used when this one began
        self._begun: float | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.unwritten: OSError | None = None  # why the file could not be written: who uses more time is to stop

    @property
    def spent_s(self) -> float:
        """Seconds used by all processes so far; of one that was killed, the seconds that it had paid."""
        return self.before_s + self.here_s

    @property
    def here_s(self) -> float:
        """Seconds of them that this process has used, from the clock's start on; 0 while it does not run."""
        return 0.0 if self._begun is None else self._now() - self._begun

    @property
    def left_s(self) -> float:
        """Seconds until the allowance is used up."""
        return max(0.0, self._allowance_s - self.spent_s)

    def start(self) -> None:
        """Begin to count in this process, with a lease paid. Does nothing when called again."""
        if self._begun is None:
            self._begun = self._now()
            self.tick()

    def tick(self) -> bool:
        """Pay for the next lease where the last one is more than half used; False once the allowance is used up."""
        with self._lock:
            if self._begun is not None and not self._closed.is_set():
                self._pay()
            return self.left_s > 0

    def _pay(self) -> None:
        spent_s = self.spent_s
        # What a step uses beyond the allowance, which it finishes, is paid for too.
        wanted_s = max(min(spent_s + self._lease_s, self._allowance_s), spent_s)
        if self._paid_s - spent_s < self._lease_s / 2 and wanted_s > self._paid_s:
            write_json(self._path, {"spent_s": wanted_s})
            self._paid_s = wanted_s

    def close(self) -> None:
        """Stop counting and refund what was paid and not used. Does nothing when called again."""
        with self._lock:
            if self._begun is None or self._closed.is_set():
                return
            self._closed.set()
            self.before_s, self._begun = self.spent_s, None
            try:
                write_json(self._path, {"spent_s": self.before_s})
            except OSError:  # a full disk: what was paid stays paid
                if self._paid_s < self.before_s:
                    raise

    def _keep_paying(self) -> None:
        while not self._closed.wait(self._lease_s / 5):  # a training step may take longer than a lease
            try:
                self.tick()
            except OSError as error:
                self.unwritten = error

    def __enter__(self) -> Self:
        self.start()
        threading.Thread(target=self._keep_paying, name="clock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> float:
    try:
        value = read_json(path)
        spent_s = 0.0 if value is None else float(value["spent_s"])
    except (ValueError, KeyError, TypeError, AssertionError):
        spent_s = -1.0
    if not 0.0 <= spent_s < float("inf"):
        raise RecipeError(f"{path} is damaged, so the seconds used are unknown; to count from 0 again, delete it")
    return spent_s


def spelled(spent_s: float, allowance_s: float) -> str:
    """Time used of the allowance, in the unit that reads best."""
    unit, length = ("hours", 3600.0) if allowance_s >= 3600 else ("minutes", 60.0)
    return f"{spent_s / length:.2f} of {allowance_s / length:.3g} {unit}"
