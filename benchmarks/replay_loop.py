"""A worker that answers from a landscape, and the clock that it and its service live by: for replaying the real loop.

To the service (search.loop) it is a worker like any other: it takes its orders from the file, writes events, asks for
verdicts at rungs, checkpoints, keeps its answers, stops when asked, ends when its lease lapses, and goes on from the
newest checkpoint (search/worker.py, train/loop.py). It trains nothing: what a step takes and what a rung or a prompt
shows is the landscape's. The clock jumps from one thing that happens to the next, so that a trial takes milliseconds.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from replay_attempt import POLL_S, Attempt, World

from search.launcher import write_order
from search.lease import LAPSED
from search.worker import ASSIGNMENT
from storage.attempts import Holder
from train.rundir import RunDir, read_json, write_json

STRIDE_S = 1.0  # the longest sleep of the service's while nothing happens
START_S = 0.5  # until a new process takes orders


@dataclass
class ReplayClock:
    """The clocks of one boot (see search.clock.Clock). Sleeping lets the worker live until then, or until it did
    something. `passed` is told every new reading of `monotonic`, and may end everything."""

    wall: float
    awake: float
    passed: Callable[[float], None] = lambda awake: None
    worker: ReplayedWorker | None = None

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.awake

    def boottime(self) -> float:
        return self.awake

    def sleep(self, seconds: float) -> None:
        """Let at least so many seconds go by, and at most STRIDE_S more, while the worker has nothing to do."""
        end = self.awake + seconds
        next_s = self.worker.next_s if self.worker else math.inf
        end = max(end, min(next_s, self.awake + STRIDE_S))
        while self.worker and self.worker.next_s <= end:
            self._reach(max(self.awake, self.worker.next_s))
            self.worker.act()
        self._reach(end)

    def _reach(self, awake: float) -> None:
        self.wall += awake - self.awake
        self.awake = awake
        self.passed(awake)


@dataclass
class ReplayedWorker:
    """A worker that a service has started (see search.launcher.Process)."""

    runs: Path
    token: str
    clock: ReplayClock
    world: World
    code: int | None = None
    paid: tuple[RunDir, int] | None = None  # the run and attempt whose lease lets it live
    loaded: bool = False

    def __post_init__(self) -> None:
        self.holder = Holder("replayed", "another boot", os.getpid(), 0)  # none that is alive: nobody may kill it
        self.next_s = self.clock.monotonic() + START_S
        self._life = self._serve()
        self.clock.worker = self

    def assign(self, run: str, attempt: int) -> None:
        write_order(self.runs, self.holder, self.token, {"run": run, "attempt": attempt})

    def exit_code(self) -> int | None:
        self._lapse()
        return self.code

    def how_it_ended(self) -> str:
        return f"exit code {self.code}"

    def quit(self) -> None:
        if self.exit_code() is None:
            write_order(self.runs, self.holder, self.token, {"run": None, "attempt": None})
            while self.exit_code() is None:
                self.clock.sleep(POLL_S)

    def kill(self) -> None:
        self._end(-9)

    def act(self) -> None:
        """Do what is due now."""
        self._lapse()
        if self.code is None:
            try:
                self.next_s = self.clock.monotonic() + next(self._life)
            except StopIteration as over:
                self._end(over.value)

    def _end(self, code: int) -> None:
        self.code, self.next_s = (code if self.code is None else self.code), math.inf

    def _lapse(self) -> None:
        if self.paid and self.code is None:
            lease = read_json(self.paid[0].lease)
            if lease is None or lease["attempt"] != self.paid[1] or self.clock.monotonic() > lease["paid_until"]:
                self._end(LAPSED)

    def _serve(self) -> Generator[float, None, int]:
        attempt = 0
        while True:
            order = read_json(self.runs / ASSIGNMENT)
            if order is None or order["token"] != self.token or order["attempt"] == attempt:
                yield POLL_S
                continue
            if order["run"] is None:
                return 0
            attempt = order["attempt"]
            run = RunDir(self.runs / order["run"])
            self.paid = run, attempt
            result = yield from Attempt(self.world, self.clock, run, attempt).whole(self.loaded)
            self.loaded, self.paid = True, None
            write_json(run.result, result)
            if result["outcome"] != "stopped":
                shutil.rmtree(run.checkpoints, ignore_errors=True)
                for path in run.kept_answers():
                    path.unlink()
