"""Attempts as frozen records, and the processes that hold them. Imports no SQLAlchemy: status has to answer at once."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Holder:
    """A process, told apart from a later one with the same pid, on this machine or after a reboot.

    `started` is the start time in clock ticks since boot, as the kernel counts them.
    """

    host: str
    boot_id: str
    pid: int
    started: int

    @classmethod
    def of_process(cls, pid: int) -> Holder:
        """The process `pid` of this machine. Raises ProcessLookupError where there is none, or only its corpse."""
        if (started := _start_time(pid)) is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(socket.gethostname(), _boot_id(), pid, started)


def alive(holder: Holder) -> bool:
    """Whether `holder` is at work on this machine now. A process that has ended and was not reaped yet is not."""
    return holder.boot_id == _boot_id() and holder.started == _start_time(holder.pid)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; the second field is a name in which anything may stand."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass(frozen=True)
class Attempt:
    """One process at work on one run, as it was when read. Open while `ended_at` is None.

    `trial` is Optuna's trial number, None for work that belongs to no trial. `paid_s` is the sum of its leases,
    `charged_s` that less its refund, and `costs` says what the charge went to: once closed, its values sum to that.
    `tokens` has how many were for a cause, where that is known.
    """

    id: int
    trial: int | None
    run: str
    holder: Holder
    opened_at: datetime
    ended_at: datetime | None
    outcome: str | None
    reason: str
    paid_s: float
    charged_s: float
    costs: Mapping[str, float]
    tokens: Mapping[str, int]

    @classmethod
    def of_row(cls, row: Mapping[str, Any], paid: int, charged: int, costs: Mapping[str, tuple[int, int]]) -> Attempt:
        """A row of the table, with the sums of its leases and of all its entries in microseconds; `costs` has
        microseconds and tokens by cause."""
        ended = row["ended_at"]
        return cls(
            id=row["id"],
            trial=row["trial_number"],
            run=row["run"],
            holder=Holder(row["host"], row["boot_id"], row["pid"], row["pid_started"]),
            opened_at=datetime.fromisoformat(row["opened_at"]),
            ended_at=None if ended is None else datetime.fromisoformat(ended),
            outcome=row["outcome"],
            reason=row["reason"],
            paid_s=seconds(paid),
            charged_s=seconds(charged),
            costs={cause: seconds(spent) for cause, (spent, _) in costs.items()},
            tokens={cause: tokens for cause, (_, tokens) in costs.items() if tokens},
        )


@dataclass(frozen=True)
class Work:
    """What the attempts on one trial add up to, an open one included."""

    attempts: int = 0
    charged_s: float = 0.0


WORK = (  # rows of: trial, attempts, microseconds
    "SELECT trial_number, count(DISTINCT attempt.id), sum(microseconds) FROM attempt "
    "JOIN entry ON entry.attempt_id = attempt.id GROUP BY trial_number"
)


def work_of_rows(rows: Iterable[tuple[int | None, int, int]]) -> dict[int | None, Work]:
    """What `WORK` gives, by trial."""
    return {trial: Work(attempts, seconds(charged)) for trial, attempts, charged in rows}


def seconds(microseconds: int) -> float:
    """The ledger keeps whole microseconds, whose sums are exact."""
    return microseconds / 1_000_000
