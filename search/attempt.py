"""One attempt: a process that works on a run, from its first lease to its settlement in the ledger."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from search import budget
from search.launcher import Worker
from search.lease import LAPSED
from search.worker import OTHER_BASE
from storage.ledger import Attempt, Ledger
from train.rundir import Json, RunDir, parse_event, read_json, write_json

POLL_S = 0.05
STOPPED = {
    "asked": "it was asked to stop",
    "budget": "the budget is spent",
    "deadline": "the deadline is reached",
}


@dataclass
class Asked:
    """How often the user or the system has asked the service to end, and by which signal the last time. The second time
    means at once."""

    times: int = 0
    number: int = signal.SIGINT


class Interrupted(KeyboardInterrupt):
    """The service ended because it was asked to; `number` is the signal's."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.number = asked.number


@contextmanager
def signals(asked: Asked) -> Iterator[None]:
    """Count SIGINT, SIGTERM and SIGHUP instead of dying of them; the old handlers come back afterwards."""

    def note(number: int, frame: FrameType | None) -> None:
        asked.times += 1
        asked.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Show(Protocol):
    """Lets an observer see the study."""

    def __call__(self, *, force: bool = False) -> None: ...


@dataclass
class Watching:
    """Answers the rungs of one attempt, pays its leases, and asks it to stop when time or money is over."""

    run: RunDir
    worker: Worker
    ledger: Ledger
    attempt: Attempt
    limit_s: float
    spent_s: float
    deadline: float | None  # a reading of time.time()
    asked: Asked
    judge: Callable[[float, float], bool]  # (fraction, bits per byte) -> may it go on
    show: Show
    stop_reason: str = ""
    longest_step_s: float = 0.0
    longest_save_s: float = 0.0
    event_at: float = 0.0  # seconds of the run at its last event

    def until_over(self, job: Json) -> Json | None:
        """Give the job to the worker and wait; returns the run's result, or None if the process died."""
        self.opened = time.monotonic()
        self.paid_s = self.attempt.paid_s
        events = Tail(self.run.events)
        self._write_lease()
        write_json(self.run.job, {"attempt": self.attempt.id, **job})
        self.worker.assign(self.run.path.name, self.attempt.id)
        result = None
        while result is None and self.worker.exit_code() is None:
            for event in events.new():
                self._answer(event)
            self._pay_or_stop()
            self.show()
            time.sleep(POLL_S)
            result = self._result()
        return self._settle(result or self._result())

    def _answer(self, event: Json) -> None:
        took, self.event_at = event.get("seconds", 0.0) - self.event_at, event.get("seconds", self.event_at)
        if event["event"] == "step":
            self.longest_step_s = max(self.longest_step_s, took)
        elif event["event"] == "checkpoint":
            self.longest_save_s = max(self.longest_save_s, took)
        elif event["event"] == "rung":
            go_on = self.judge(event["fraction"], event["bits_per_byte"])
            verdict = {"attempt": self.attempt.id, "fraction": event["fraction"], "go_on": go_on}
            write_json(self.run.verdict, verdict)
            self.show(force=True)

    def _pay_or_stop(self) -> None:
        standing = budget.Standing(
            limit_s=self.limit_s,
            spent_s=self.spent_s,
            lease_left_s=self.opened + self.paid_s - time.monotonic(),
            deadline_s=None if self.deadline is None else self.deadline - time.time(),
            reserve_s=budget.reserve_s(self.longest_step_s, self.longest_save_s),
        )
        decision = budget.decide(standing)
        if decision.pay_s > 0:
            self.ledger.pay(self.attempt.id, decision.pay_s, self.limit_s)
            self.paid_s += decision.pay_s
            self.spent_s += decision.pay_s
            self._write_lease()
        if self.asked.times > 1:
            self.worker.kill()
        reason = "asked" if self.asked.times else decision.stop
        if reason and not self.stop_reason:
            self.stop_reason = STOPPED[reason]
            write_json(self.run.stop, {"attempt": self.attempt.id, "reason": self.stop_reason})

    def _write_lease(self) -> None:
        write_json(self.run.lease, {"attempt": self.attempt.id, "paid_until": self.opened + self.paid_s})

    def _result(self) -> Json | None:
        result = read_json(self.run.result)
        return result if result and result["attempt"] == self.attempt.id else None

    def _settle(self, result: Json | None) -> Json | None:
        """Close the attempt in the ledger: what was paid and not used comes back."""
        used = min(time.monotonic() - self.opened, self.paid_s)
        outcome = result["outcome"] if result else _death(self.worker.exit_code())
        costs, tokens = _costs(result)
        self.ledger.close(self.attempt.id, used_s=used, outcome=outcome, costs=costs, tokens=tokens)
        if result and result["outcome"] == "stopped":
            return {**result, "reason": self.stop_reason}
        return result


def _costs(result: Json | None) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds by cause, and the tokens that were generated for the score."""
    if result is None:
        return {}, {}
    score = result.get("score")
    return result["seconds"], {"score": score["tokens"]} if score else {}


def _death(exit_code: int | None) -> str:
    if exit_code == LAPSED:
        return "lapsed"
    return "recycled" if exit_code == OTHER_BASE else "died"


class Tail:
    """The whole lines that a file gets from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def new(self) -> list[Json]:
        """The events since the last call; a line that is still being written waits for the next one."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := parse_event(line)) is not None]
