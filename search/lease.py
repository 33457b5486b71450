"""How a worker listens to its service through the RunDir's files, and how it ends when its paid time is over."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

from train.rundir import RunDir, read_json

POLL_S = 0.02
LAPSED = 75  # exit code: the lease ran out
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class FileWatch:
    """Answers the training loop's questions out of the RunDir's files."""

    run: RunDir
    attempt: int

    def begins(self, step: int, damaged: object) -> None:
        """Nothing to add: the loop itself writes the events."""

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


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (prctl PR_SET_PDEATHSIG), also if it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(LAPSED)
