"""The ledger: leases, refunds, costs, who may hold a run, and that nothing is ever rewritten."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from storage_kit import Child, start_together

from storage import db
from storage.ledger import AttemptClosed, AttemptOpen, BudgetExhausted, Holder, Ledger, alive

NIGHT = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """An empty ledger whose clock stands at 3 AM."""
    return Ledger(engine, now=lambda: NIGHT)


def test_an_attempt_is_paid_before_it_is_used(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(7, "runs/007", holder, lease_s=10, limit_s=100)
    assert (attempt.trial, attempt.run, attempt.holder) == (7, "runs/007", holder)
    assert (attempt.paid_s, attempt.charged_s, attempt.costs) == (10, 10, {})
    assert (attempt.opened_at, attempt.ended_at, attempt.outcome) == (NIGHT, None, None)
    assert ledger.pay(attempt.id, 10, 100).paid_s == 20
    assert ledger.spent_s() == 20
    assert ledger.spent_by_cause() == {"running": 20}


def test_a_clean_end_is_charged_what_it_used(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 100)
    ledger.pay(attempt.id, 10, 100)
    closed = ledger.close(attempt.id, 12.5, "completed", {"train": 8.25, "score": 3.0}, tokens={"score": 4321})
    assert (closed.paid_s, closed.charged_s) == (20, 12.5)
    assert closed.costs == {"train": 8.25, "score": 3.0, "overhead": 1.25}
    assert closed.tokens == {"score": 4321}
    assert (closed.outcome, closed.ended_at, closed.reason) == ("completed", NIGHT, "")
    assert ledger.spent_s() == 12.5
    assert ledger.spent_by_cause() == {"train": 8.25, "score": 3.0, "overhead": 1.25}
    assert ledger.open_attempts() == []


def test_a_killed_attempt_stays_charged_with_what_it_paid(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 100)
    lost = ledger.abandon(attempt.id, "process 123 died with signal 9")
    assert (lost.charged_s, lost.costs, lost.outcome) == (10, {"lost": 10}, "abandoned")
    assert lost.reason == "process 123 died with signal 9"
    assert ledger.spent_s() == 10


def test_use_beyond_what_was_paid_is_noted_and_not_charged(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 10)
    closed = ledger.close(attempt.id, 11.25, "stopped", {"train": 11.0, "save": 0.25}, reason="lease lapsed")
    assert closed.charged_s == 10
    assert closed.costs == {"train": 10}  # what is claimed beyond the charge is cut off, the last first
    assert closed.reason == "lease lapsed; used 1.250 s more than were paid"


def test_an_end_before_the_beginning_costs_nothing(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 10)
    closed = ledger.close(attempt.id, 0, "failed", {"load": 0})
    assert (closed.charged_s, closed.costs, ledger.spent_s()) == (0, {}, 0)


def test_a_lease_that_does_not_fit_changes_nothing(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, limit_s=25)
    ledger.pay(attempt.id, 10, 25)
    with pytest.raises(
        BudgetExhausted, match=r"20\.0 s are spent; 10\.0 s more do not fit in the budget of 25\.0 s"
    ) as no:
        ledger.pay(attempt.id, 10, 25)
    assert (no.value.spent_s, no.value.lease_s, no.value.limit_s) == (20, 10, 25)
    with pytest.raises(BudgetExhausted):
        ledger.open_attempt(1, "001", holder, 10, 25)
    assert [a.run for a in ledger.attempts()] == ["000"]
    assert ledger.pay(attempt.id, 5, 25).paid_s == 25  # a shorter one does
    assert ledger.pay(attempt.id, 5, math.inf).paid_s == 30


def test_seconds_add_up_exactly(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 0.1, 1.1)
    for _ in range(10):
        ledger.pay(attempt.id, 0.1, 1.1)
    assert ledger.spent_s() == 1.1
    with pytest.raises(BudgetExhausted):
        ledger.pay(attempt.id, 0.000001, 1.1)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_what_is_no_time_is_refused(ledger: Ledger, holder: Holder, seconds: float) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 100)
    with pytest.raises(ValueError, match="no amount of seconds"):
        ledger.pay(attempt.id, seconds, 100)
    with pytest.raises(ValueError, match="no amount of seconds"):
        ledger.close(attempt.id, seconds, "completed", {})
    with pytest.raises(ValueError, match="no amount of seconds"):
        ledger.close(attempt.id, 1, "completed", {"train": seconds})
    with pytest.raises(ValueError, match="pays for nothing"):
        ledger.pay(attempt.id, 0, 100)
    with pytest.raises(ValueError, match="pays for nothing"):
        ledger.pay(attempt.id, 1, math.nan)
    assert ledger.attempts() == [attempt]


def test_one_open_attempt_a_run(ledger: Ledger, holder: Holder) -> None:
    first = ledger.open_attempt(0, "000", holder, 10, 100)
    with pytest.raises(AttemptOpen, match=f"000 is held by attempt 1, process {holder.pid} on {holder.host}") as held:
        ledger.open_attempt(0, "000", holder, 10, 100)
    assert held.value.attempt == first
    ledger.abandon(first.id, "gone")
    second = ledger.open_attempt(0, "000", holder, 10, 100)
    third = ledger.open_attempt(None, "base", holder, 10, 100)
    assert ledger.open_attempts() == [second, third]
    assert [a.id for a in ledger.attempts(trial=0)] == [first.id, second.id]
    assert [a.id for a in ledger.attempts()] == [first.id, second.id, third.id]


def test_what_has_ended_never_changes(ledger: Ledger, holder: Holder) -> None:
    attempt = ledger.open_attempt(0, "000", holder, 10, 100)
    closed = ledger.close(attempt.id, 5, "completed", {})
    with pytest.raises(AttemptClosed, match=r"attempt 1 on 000 ended at 2026-11-23T03:00:00.* as completed"):
        ledger.pay(attempt.id, 10, 100)
    with pytest.raises(AttemptClosed):
        ledger.close(attempt.id, 5, "completed", {})
    with pytest.raises(AttemptClosed):
        ledger.abandon(attempt.id, "late")
    with pytest.raises(LookupError, match="no attempt 99"):
        ledger.pay(99, 10, 100)
    assert ledger.attempts() == [closed]
    with pytest.raises(FrozenInstanceError):
        closed.outcome = "failed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE entry SET microseconds = 1", "entries never change"),
        ("DELETE FROM entry", "entries are never deleted"),
        ("INSERT OR REPLACE INTO entry VALUES (2, 2, 'lease', 1, '')", "only appended"),
        ("INSERT INTO entry VALUES (9, 1, 'lease', 1, '')", "only to an open attempt"),
        ("INSERT INTO entry VALUES (9, 2, 'lease', -1, '')", "entry_sign"),
        ("INSERT INTO entry VALUES (9, 2, 'refund', 1, '')", "entry_sign"),
        ("INSERT INTO entry VALUES (9, 77, 'lease', 1, '')", "FOREIGN KEY"),
        ("UPDATE attempt SET reason = 'x' WHERE id = 1", "closed attempt never changes"),
        ("UPDATE attempt SET ended_at = NULL, outcome = NULL WHERE id = 1", "closed attempt never changes"),
        ("UPDATE attempt SET pid = 1 WHERE id = 2", "never becomes another"),
        ("UPDATE attempt SET ended_at = 'now' WHERE id = 2", "attempt_ends_with_outcome"),
        ("DELETE FROM attempt WHERE id = 2", "never deleted"),
        ("INSERT INTO attempt SELECT 9, 0, run, '', '', 1, 1, '', NULL, NULL, '' FROM attempt WHERE id = 2", "UNIQUE"),
        ("UPDATE cost SET microseconds = 1", "costs never change"),
        ("DELETE FROM cost", "costs are never deleted"),
    ],
)
def test_sql_cannot_rewrite_it_either(
    ledger: Ledger, engine: Engine, holder: Holder, statement: str, complaint: str
) -> None:
    ledger.close(ledger.open_attempt(0, "000", holder, 10, 100).id, 5, "completed", {"train": 5})
    ledger.open_attempt(1, "001", holder, 10, 100)
    before = ledger.attempts()
    with pytest.raises(IntegrityError, match=complaint), engine.begin() as connection:
        connection.exec_driver_sql(statement)
    assert ledger.attempts() == before


# Holders


def test_a_holder_is_this_process_and_no_later_one(holder: Holder) -> None:
    assert holder.pid == os.getpid()
    assert alive(holder)
    assert Holder.of_process(os.getpid()) == holder
    assert not alive(replace(holder, started=holder.started - 1))  # the pid was given to another process
    assert not alive(replace(holder, boot_id="before the power cut"))


def test_a_dead_process_holds_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = Holder.of_process(child.pid)
    assert alive(holder)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    assert not alive(holder)
    with pytest.raises(ProcessLookupError, match=str(child.pid)):
        Holder.of_process(child.pid)
    child.communicate()
    assert not alive(holder)


def test_a_name_with_brackets_confuses_nobody(tmp_path: Path) -> None:
    script = tmp_path / "a) Z (b"
    script.symlink_to("/bin/cat")
    with subprocess.Popen([script], stdin=subprocess.PIPE) as child:
        assert alive(Holder.of_process(child.pid))
        assert child.stdin is not None
        child.stdin.close()


# Several processes


def _pay_when_told(path: Path, pipe: Pipe) -> None:
    ledger = Ledger(db.engine(path))
    attempt = ledger.open_attempt(None, str(os.getpid()), Holder.of_process(os.getpid()), 10, math.inf)
    pipe.send("ready")
    pipe.recv()
    while (limit_s := pipe.recv()) is not None:
        try:
            ledger.pay(attempt.id, 10, limit_s)
            pipe.send(True)
        except BudgetExhausted:
            pipe.send(False)


def test_four_processes_never_overspend(engine: Engine, path: Path) -> None:
    ledger = Ledger(engine)
    children = start_together(_pay_when_told, [(path,)] * 4)
    for leases in (0, 1, 2, 3, 4) * 4:
        limit_s = ledger.spent_s() + 10 * leases + 9
        for child in children:
            child.pipe.send(limit_s)
        assert sum(child.pipe.recv() for child in children) == leases
        assert ledger.spent_s() == limit_s - 9
    for child in children:
        child.pipe.send(None)
        child.join()


def _open_and_pay(path: Path, acknowledge: Pipe) -> None:
    ledger, holder = Ledger(db.engine(path)), Holder.of_process(os.getpid())
    for round_ in range(1000):
        attempt = ledger.open_attempt(round_, f"{os.getpid()}/{round_}", holder, 10, math.inf)
        acknowledge.send(10.0)
        ledger.pay(attempt.id, 10, math.inf)
        acknowledge.send(10.0)
        ledger.close(attempt.id, 15, "completed", {"train": 14})
        acknowledge.send(-5.0)


def test_a_kill_loses_nothing_that_was_acknowledged(engine: Engine, path: Path) -> None:
    ledger, draw = Ledger(engine), random.Random(0)
    for _ in range(5):
        before = ledger.spent_s()
        child = Child(_open_and_pay, path)
        acknowledged = sum(child.pipe.recv() for _ in range(draw.randrange(1, 30)))
        child.kill()
        acknowledged += _rest(child.pipe)
        db.check(path)
        unacknowledged = ledger.spent_s() - before - acknowledged
        assert unacknowledged in (0.0, 10.0, -5.0)  # at most the one call that the kill interrupted
        for attempt in ledger.open_attempts():
            assert not alive(attempt.holder)
            assert ledger.abandon(attempt.id, "killed").charged_s == attempt.paid_s
    assert sum(ledger.spent_by_cause().values()) == pytest.approx(ledger.spent_s())


def _rest(pipe: Pipe) -> float:
    total = 0.0
    try:
        while True:
            total += pipe.recv()
    except (EOFError, OSError):
        return total
