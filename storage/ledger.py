"""The ledger: GPU-seconds, append-only, paid before they are used.

An attempt is one process at work on one run. It pays a lease before it starts and the next one before the last lapses;
a clean end refunds what was not used, a kill does not. So whoever pays when the last lease has just been used up is
overcharged by at most one lease when killed, and never undercharged. What is paid ahead of that comes on top.

Seconds are kept as whole microseconds: sums are exact. Leases and use are rounded up, limits down.

    BudgetExhausted    the next lease does not fit in the limit (a decision; nothing was written)
    AttemptOpen        somebody holds the run already
    AttemptClosed      the attempt has ended; it never changes again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.orm import Session

from storage.attempts import WORK, Attempt, Holder, Work, alive, seconds, work_of_rows
from storage.db import path_of, storage_errors
from storage.tables import AttemptRow, CostRow, EntryRow

__all__ = [
    "Attempt",
    "AttemptClosed",
    "AttemptOpen",
    "BudgetExhausted",
    "Holder",
    "Ledger",
    "alive",
    "utc_now",
]

OVERHEAD = "overhead"  # charged, and measured as nothing else
LOST = "lost"  # charged to attempts that never said how they ended
RUNNING = "running"  # charged to attempts that are open
NONE: Mapping[str, int] = {}


class BudgetExhausted(Exception):
    """The next lease does not fit: `spent_s + lease_s > limit_s`. Nothing was written."""

    def __init__(self, spent_s: float, lease_s: float, limit_s: float) -> None:
        super().__init__(f"{spent_s:.1f} s are spent; {lease_s:.1f} s more do not fit in the budget of {limit_s:.1f} s")
        self.spent_s = spent_s
        self.lease_s = lease_s
        self.limit_s = limit_s


class AttemptOpen(Exception):
    """The run has an open attempt; `attempt` is that one."""

    def __init__(self, attempt: Attempt) -> None:
        holder = attempt.holder
        super().__init__(f"{attempt.run} is held by attempt {attempt.id}, process {holder.pid} on {holder.host}")
        self.attempt = attempt


class AttemptClosed(Exception):
    """The attempt has ended."""


def utc_now() -> datetime:
    """The wall clock, which the ledger only shows and never reckons with."""
    return datetime.now(UTC)


class Ledger:
    """The ledger of one study database. Every call is one transaction; when it returns, it is on the disk.

    Any number of processes may call at once: what is decided on is read in the transaction that pays. On a read-only
    engine the reading calls work. Raises StorageError where the database fails, ValueError for NaN or negative seconds.
    """

    def __init__(self, engine: Engine, now: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._path = path_of(engine)
        self._now = now

    def open_attempt(self, trial: int | None, run: str, holder: Holder, lease_s: float, limit_s: float) -> Attempt:
        """Begin an attempt on `run` and pay its first lease.

        Raises AttemptOpen where the run is held, BudgetExhausted where the lease does not fit in `limit_s`.
        """
        with self._transaction() as session:
            if held := _read(session, AttemptRow.run == run, AttemptRow.ended_at.is_(None)):
                raise AttemptOpen(held[0])
            attempt = AttemptRow(
                trial_number=trial,
                run=run,
                host=holder.host,
                boot_id=holder.boot_id,
                pid=holder.pid,
                pid_started=holder.started,
                opened_at=self._now().isoformat(),
            )
            session.add(attempt)
            session.flush()
            self._pay(session, attempt.id, lease_s, limit_s)
            return _read_one(session, attempt.id)

    def pay(self, attempt_id: int, lease_s: float, limit_s: float) -> Attempt:
        """Pay the next lease of an open attempt. Raises BudgetExhausted or AttemptClosed, and then changes nothing."""
        with self._transaction() as session:
            _open_row(session, attempt_id)
            self._pay(session, attempt_id, lease_s, limit_s)
            return _read_one(session, attempt_id)

    def close(
        self,
        attempt_id: int,
        used_s: float,
        outcome: str,
        costs: Mapping[str, float],
        reason: str = "",
        tokens: Mapping[str, int] = NONE,
    ) -> Attempt:
        """End an attempt cleanly: charge `used_s`, refund the rest of what it paid, keep `costs` (seconds by cause) and
        how many `tokens` they were for.

        What the costs do not explain becomes "overhead"; what they claim beyond the charge is cut off, the last first.
        Use beyond what was paid is not charged (no lease admitted it) and is noted in the reason.
        """
        used, claims = _up(used_s), {cause: _up(amount_s) for cause, amount_s in costs.items()}
        with self._transaction() as session:
            row = _open_row(session, attempt_id)
            paid = _charged(session, attempt_id)
            if used > paid:
                reason = "; ".join(filter(None, [reason, f"used {seconds(used - paid):.3f} s more than were paid"]))
            elif used < paid:
                self._enter(session, attempt_id, "refund", used - paid)
            self._end(session, row, outcome, reason, _shares(min(used, paid), claims), tokens)
            return _read_one(session, attempt_id)

    def abandon(self, attempt_id: int, reason: str) -> Attempt:
        """End an attempt whose process died without a word: all that it paid stays charged, as "lost"."""
        with self._transaction() as session:
            row = _open_row(session, attempt_id)
            self._end(session, row, "abandoned", reason, {LOST: _charged(session, attempt_id)})
            return _read_one(session, attempt_id)

    def attempts(self, trial: int | None = None) -> list[Attempt]:
        """Every attempt, oldest first, or those of one trial."""
        with self._transaction() as session:
            return _read(session, *([] if trial is None else [AttemptRow.trial_number == trial]))

    def open_attempts(self) -> list[Attempt]:
        """Attempts that have not ended, oldest first; whether their holders live is for `alive` to say."""
        with self._transaction() as session:
            return _read(session, AttemptRow.ended_at.is_(None))

    def work(self) -> dict[int | None, Work]:
        """What the attempts on each trial add up to; under None, those on what belongs to no trial."""
        with self._transaction() as session:
            return work_of_rows(session.connection().exec_driver_sql(WORK).all())

    def spent_s(self) -> float:
        """Seconds charged to all attempts, open ones included: the sum of all entries."""
        with self._transaction() as session:
            return seconds(_charged(session))

    def spent_by_cause(self) -> dict[str, float]:
        """Seconds charged, by cause; sums to `spent_s`. Open attempts stand under "running"."""
        with self._transaction() as session:
            total = func.sum(CostRow.microseconds)
            spent = dict(session.execute(select(CostRow.cause, total).group_by(CostRow.cause)).all())
            if running := _charged(session) - sum(spent.values()):
                spent[RUNNING] = running
            return {cause: seconds(spent[cause]) for cause in sorted(spent)}

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with storage_errors(self._path), Session(self._engine) as session, session.begin():
            yield session

    def _pay(self, session: Session, attempt_id: int, lease_s: float, limit_s: float) -> None:
        spent, lease = _charged(session), _up(lease_s)
        if lease == 0 or math.isnan(limit_s):
            raise ValueError(f"a lease of {lease_s} s within {limit_s} s pays for nothing")
        if limit_s != math.inf and spent + lease > _microseconds(limit_s, ROUND_FLOOR):
            raise BudgetExhausted(seconds(spent), lease_s, limit_s)
        self._enter(session, attempt_id, "lease", lease)

    def _enter(self, session: Session, attempt_id: int, kind: str, microseconds: int) -> None:
        at = self._now().isoformat()
        session.add(EntryRow(attempt_id=attempt_id, kind=kind, microseconds=microseconds, at=at))
        session.flush()

    def _end(
        self,
        session: Session,
        row: AttemptRow,
        outcome: str,
        reason: str,
        shares: Mapping[str, int],
        tokens: Mapping[str, int] = NONE,
    ) -> None:
        session.add_all(
            CostRow(attempt_id=row.id, cause=cause, microseconds=share, tokens=tokens.get(cause, 0))
            for cause, share in shares.items()
        )
        row.ended_at, row.outcome, row.reason = self._now().isoformat(), outcome, reason
        session.flush()


def _open_row(session: Session, attempt_id: int) -> AttemptRow:
    row = session.get(AttemptRow, attempt_id)
    if row is None:
        raise LookupError(f"the ledger has no attempt {attempt_id}")
    if row.ended_at is not None:
        raise AttemptClosed(f"attempt {attempt_id} on {row.run} ended at {row.ended_at} as {row.outcome}")
    return row


def _charged(session: Session, attempt_id: int | None = None) -> int:
    total = select(func.coalesce(func.sum(EntryRow.microseconds), 0))
    return session.scalars(total if attempt_id is None else total.where(EntryRow.attempt_id == attempt_id)).one()


def _shares(charged: int, claims: Mapping[str, int]) -> dict[str, int]:
    """Positive shares that sum to `charged` exactly."""
    shares, left = {}, charged
    for cause, claim in claims.items():
        shares[cause] = min(claim, left)
        left -= shares[cause]
    shares[OVERHEAD] = shares.get(OVERHEAD, 0) + left
    return {cause: share for cause, share in shares.items() if share}


def _read_one(session: Session, attempt_id: int) -> Attempt:
    (attempt,) = _read(session, AttemptRow.id == attempt_id)
    return attempt


def _read(session: Session, *conditions: ColumnElement[bool]) -> list[Attempt]:
    rows = session.scalars(select(AttemptRow).where(*conditions).order_by(AttemptRow.id)).all()
    chosen = select(AttemptRow.id).where(*conditions)
    leases = func.sum(EntryRow.microseconds).filter(EntryRow.kind == "lease")
    sums = select(EntryRow.attempt_id, leases, func.sum(EntryRow.microseconds)).group_by(EntryRow.attempt_id)
    paid = {id_: (lease, net) for id_, lease, net in session.execute(sums.where(EntryRow.attempt_id.in_(chosen)))}
    costs: dict[int, dict[str, tuple[int, int]]] = {}
    for cost in session.scalars(select(CostRow).where(CostRow.attempt_id.in_(chosen)).order_by(CostRow.cause)):
        costs.setdefault(cost.attempt_id, {})[cost.cause] = cost.microseconds, cost.tokens
    return [_attempt(row, *paid[row.id], costs.get(row.id, {})) for row in rows]


def _attempt(row: AttemptRow, paid: int, charged: int, costs: Mapping[str, tuple[int, int]]) -> Attempt:
    return Attempt.of_row(vars(row), paid, charged, costs)


def _up(amount_s: float) -> int:
    """Microseconds, rounded up. Raises ValueError for what is no amount of time."""
    if not (math.isfinite(amount_s) and amount_s >= 0):
        raise ValueError(f"{amount_s} is no amount of seconds")
    return _microseconds(amount_s, ROUND_CEILING)


def _microseconds(amount_s: float, rounding: str) -> int:
    """Through the shortest decimal of a float, so that 1.1 s is 1,100,000 microseconds either way."""
    return int((Decimal(repr(float(amount_s))) * 1_000_000).to_integral_value(rounding))
