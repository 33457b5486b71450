"""One attempt: a process that works on a run, from its first lease to its settlement in the ledger."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from search import budget, faults, neighbours
from search.clock import SYSTEM, Clock, Deadline, left_s
from search.launcher import Process
from search.lease import LAPSED
from search.silence import HANG_S, Silence
from search.worker import OTHER_BASE
from storage.ledger import Attempt, Ledger
from train.rundir import Json, RunDir, parse_event, read_json, write_json

POLL_S = 0.05
OVERDUE_S = 60.0  # beyond what a save may take: a worker that has not stopped for the deadline by then is ended
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
    """Answers the rungs of one attempt, pays its leases, and asks it to stop when time or money is over.

    A worker that does not stop is ended, and so is one that has given no sign of life for `hang_s`.
    """

    run: RunDir
    worker: Process
    ledger: Ledger
    attempt: Attempt
    limit_s: float
    spent_s: float
    deadline: Deadline | float | None
    asked: Asked
    judge: Callable[[float, float], bool]  # (fraction, bits per byte) -> may it go on
    show: Show
    clock: Clock = SYSTEM
    hang_s: float = HANG_S
    needed_bytes: int = 0  # of the card, by the plan; 0: trials do not run on one
    stop_reason: str = ""
    stop_at: float = 0.0  # when that was asked for
    ended_for: str = ""  # why the worker was killed from here, where it was
    death: str = ""  # how the process ended, where there is no result
    longest_step_s: float = 0.0
    longest_save_s: float = 0.0
    event_at: float | None = None  # seconds of the run at this attempt's last event that has a time

    def until_over(self, job: Json) -> Json | None:
        """Give the job to the worker and wait; returns the run's result, or None if the process died.

        Raises WorkerFailed where the process has to be ended and cannot be.
        """
        self.opened = self.clock.monotonic()
        self.paid_s = self.attempt.paid_s
        events, silence = Tail(self.run.events), Silence(self.run, self.worker.holder.pid, self.hang_s, self.clock)
        self._write_lease()
        write_json(self.run.job, {"attempt": self.attempt.id, **job})
        self.worker.assign(self.run.path.name, self.attempt.id)
        result = None
        while result is None and self.worker.exit_code() is None:
            for event in events.new():
                silence.heard(event)
                self._answer(event)
            self._pay_or_stop()
            self.show()
            self.clock.sleep(POLL_S)
            result = self._result()
            if result is None and silence.too_long():
                result = self._hung(silence.reason())
        used_s = min(self.clock.monotonic() - self.opened, self.paid_s)
        return self._settle(self._own(result or self._result()), used_s)

    def _hung(self, reason: str) -> Json:
        """End the worker and put down the result that it did not, unless it did at the last moment."""
        self.worker.kill()
        if (result := self._result()) is None:
            result = {"outcome": "failed", "reason": reason, "score": None, "seconds": {}, "broken": True}
            write_json(self.run.result, {"attempt": self.attempt.id, **result})
        return result

    def _own(self, result: Json | None) -> Json | None:
        """None for a result that is no fault of the trial's: it ran out of memory which others had taken.

        It goes on from its checkpoint once they are gone (search.neighbours.wait_for_room).
        """
        if not (result and self.needed_bytes and faults.out_of_memory(result.get("reason", ""))):
            return result
        seen = neighbours.usage()
        if seen is None or not (who := neighbours.waited_for(self.needed_bytes, seen, [self.worker.holder.pid])):
            return result
        self.ended_for = f"out of memory; {who}"
        self.worker.kill()
        self.run.result.unlink()
        return None

    def _answer(self, event: Json) -> None:
        before, self.event_at = self.event_at, event.get("seconds", self.event_at)
        took = 0.0 if before is None or self.event_at is None else self.event_at - before
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
            lease_left_s=self.opened + self.paid_s - self.clock.monotonic(),
            deadline_s=left_s(self.deadline, self.clock),
            reserve_s=budget.reserve_s(self.longest_step_s, self.longest_save_s),
        )
        decision = budget.decide(standing)
        if decision.pay_s > 0:
            self.ledger.pay(self.attempt.id, decision.pay_s, self.limit_s)
            self.paid_s += decision.pay_s
            self.spent_s += decision.pay_s
            self._write_lease()
        if ended_for := self._impatience(standing):
            self.ended_for = ended_for
            self.worker.kill()
        reason = "asked" if self.asked.times else decision.stop
        if reason and not self.stop_reason:
            self.stop_reason, self.stop_at = STOPPED[reason], self.clock.monotonic()
            write_json(self.run.stop, {"attempt": self.attempt.id, "reason": self.stop_reason})

    def _impatience(self, standing: budget.Standing) -> str:
        """Why the worker is ended at once, or an empty string."""
        if self.asked.times > 1:
            return "it was asked twice to stop"
        waited_s = self.clock.monotonic() - self.stop_at
        if self.stop_reason == STOPPED["deadline"] and waited_s > OVERDUE_S + standing.reserve_s:
            return f"the deadline is reached, and it had not stopped after {waited_s:.0f} s"
        return ""

    def _write_lease(self) -> None:
        write_json(self.run.lease, {"attempt": self.attempt.id, "paid_until": self.opened + self.paid_s})

    def _result(self) -> Json | None:
        result = read_json(self.run.result)
        return result if result and result["attempt"] == self.attempt.id else None

    def _settle(self, result: Json | None, used_s: float) -> Json | None:
        """Close the attempt in the ledger: what was paid and not used comes back."""
        outcome = result["outcome"] if result else _death(self.worker.exit_code())
        self.death = "" if result else self.ended_for or self.worker.how_it_ended()
        costs, tokens = _costs(result)
        reason = result.get("reason", "") if result else self.death
        self.ledger.close(self.attempt.id, used_s, outcome, costs, reason, tokens)
        if result and result["outcome"] == "stopped" and not result.get("unfit"):
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
