"""The ledger against a model of it in plain Python, under any sequence of calls and kills."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage import db
from storage.ledger import Attempt, AttemptClosed, AttemptOpen, BudgetExhausted, Holder, Ledger

LEASE_S = 10.0
MICROSECOND = Fraction(1, 1_000_000)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here depends on the disk
HOLDER = Holder.of_process(os.getpid())


@cache
def _fresh_database() -> bytes:
    """Migrated once, for all runs of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        db.open_database(path).dispose()
        return path.read_bytes()


@dataclass
class Modelled:
    """An attempt as it truly is: what it paid, and for how long it worked."""

    run: str
    paid: Fraction
    used: Fraction = Fraction(0)
    killed: bool = False
    charged: Fraction | None = None  # None: open


class LedgerMachine(RuleBasedStateMachine):
    """Workers that use only what is paid, pay when it is used up, end, and are killed."""

    @initialize(limit=st.sampled_from([15.0, 40.0, 200.0]))
    def begin(self, limit: float) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        path = Path(self.folder.name) / "study.db"
        path.write_bytes(_fresh_database())
        self.engine = db.engine(path)
        self.ledger = Ledger(self.engine)
        self.limit = limit
        self.model: dict[int, Modelled] = {}
        self.closed: dict[int, Attempt] = {}

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            self.folder.cleanup()

    def open_ids(self) -> list[int]:
        return [id_ for id_, attempt in self.model.items() if attempt.charged is None]

    def spent(self) -> Fraction:
        return sum((a.paid if a.charged is None else a.charged for a in self.model.values()), Fraction(0))

    @rule(run=st.sampled_from(["000", "001", "base"]))
    def open(self, run: str) -> None:
        held = any(self.model[id_].run == run for id_ in self.open_ids())
        fits = self.spent() + Fraction(LEASE_S) <= Fraction(self.limit)
        try:
            attempt = self.ledger.open_attempt(None, run, HOLDER, LEASE_S, self.limit)
        except AttemptOpen:
            assert held
        except BudgetExhausted:
            assert not held
            assert not fits
        else:
            assert fits
            assert not held
            assert attempt.id not in self.model
            self.model[attempt.id] = Modelled(run, Fraction(LEASE_S))

    @precondition(lambda self: self.open_ids())
    @rule(data=st.data(), share=st.floats(0, 1))
    def work(self, data: st.DataObject, share: float) -> None:
        """For a part of what is paid and not yet used."""
        attempt = self.model[data.draw(st.sampled_from(self.open_ids()))]
        attempt.used += (attempt.paid - attempt.used) * Fraction(share)

    @precondition(lambda self: self.open_ids())
    @rule(data=st.data())
    def pay(self, data: st.DataObject) -> None:
        """The lease is used up; the next one is asked for."""
        id_ = data.draw(st.sampled_from(self.open_ids()))
        attempt = self.model[id_]
        attempt.used = attempt.paid
        fits = self.spent() + Fraction(LEASE_S) <= Fraction(self.limit)
        try:
            self.ledger.pay(id_, LEASE_S, self.limit)
        except BudgetExhausted:
            assert not fits
        else:
            assert fits
            attempt.paid += Fraction(LEASE_S)

    @precondition(lambda self: self.open_ids())
    @rule(data=st.data(), overrun=st.sampled_from([0.0, 0.0, 1.5]), claims=st.lists(st.floats(0, 50), max_size=2))
    def close(self, data: st.DataObject, overrun: float, claims: list[float]) -> None:
        id_ = data.draw(st.sampled_from(self.open_ids()))
        attempt = self.model[id_]
        used = float(attempt.used) + overrun
        closed = self.ledger.close(id_, used, "completed", dict(zip(("train", "score"), claims, strict=False)))
        attempt.charged = Fraction(closed.charged_s).limit_denominator(1_000_000)
        exact = min(Fraction(used), attempt.paid)
        assert exact - MICROSECOND / 1000 <= attempt.charged <= exact + MICROSECOND
        assert bool(closed.reason) == (used > attempt.paid)
        self._ended(closed, attempt)

    @precondition(lambda self: self.open_ids())
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(self.open_ids()))
        attempt = self.model[id_]
        lost = self.ledger.abandon(id_, "killed")
        attempt.killed, attempt.charged = True, attempt.paid
        assert Fraction(lost.charged_s) == attempt.paid
        self._ended(lost, attempt)

    def _ended(self, attempt: Attempt, modelled: Modelled) -> None:
        self.closed[attempt.id] = attempt
        causes = sum(Fraction(seconds).limit_denominator(1_000_000) for seconds in attempt.costs.values())
        assert causes == modelled.charged
        assert min(attempt.costs.values(), default=1.0) > 0

    @precondition(lambda self: self.closed)
    @rule(data=st.data())
    def touch_what_has_ended(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.closed)))
        for call in (
            lambda: self.ledger.pay(id_, LEASE_S, 1e9),
            lambda: self.ledger.close(id_, 0, "completed", {}),
            lambda: self.ledger.abandon(id_, "again"),
        ):
            try:
                call()
            except AttemptClosed:
                continue
            raise AssertionError("a closed attempt was changed")

    @invariant()
    def spent_is_what_the_model_says_and_within_the_limit(self) -> None:
        if hasattr(self, "ledger"):
            spent = Fraction(self.ledger.spent_s()).limit_denominator(1_000_000)
            assert spent == self.spent()
            assert 0 <= spent <= Fraction(self.limit)

    @invariant()
    def a_kill_overcharges_by_at_most_one_lease_and_never_undercharges(self) -> None:
        for attempt in getattr(self, "model", {}).values():
            if attempt.killed:
                assert attempt.charged is not None
                assert 0 <= attempt.charged - attempt.used <= Fraction(LEASE_S)

    @invariant()
    def what_has_ended_stays_as_it_was(self) -> None:
        if hasattr(self, "ledger"):
            found = {attempt.id: attempt for attempt in self.ledger.attempts()}
            assert found.keys() == self.model.keys()
            assert self.closed.items() <= {i: a for i, a in found.items() if a.ended_at is not None}.items()
            assert [a.id for a in self.ledger.open_attempts()] == sorted(self.open_ids())


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
