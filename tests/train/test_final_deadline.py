"""A deadline in a process: it breaks off whatever is done, within its block alone."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from train import deadline as module
from train.deadline import SIGNAL, HoursOver, deadline


class Running:
    """A clock that runs from 0 on."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._begun


class Still:
    """A clock that stands still."""

    def __init__(self, spent_s: float) -> None:
        self.spent_s = spent_s


def test_it_breaks_off_what_is_done_when_its_time_has_come() -> None:
    before, clock = signal.getsignal(SIGNAL), Running()
    with pytest.raises(HoursOver), deadline(clock, at_s=0.1):
        time.sleep(60)
    assert 0.1 <= clock.spent_s < 10
    assert signal.getsignal(SIGNAL) == before


def test_one_that_has_passed_is_reached_at_once() -> None:
    with pytest.raises(HoursOver), deadline(Running(), at_s=-1.0):
        time.sleep(60)


def test_it_reaches_no_further_than_its_block() -> None:
    clock = Running()
    with deadline(clock, at_s=0.1):
        pass
    while clock.spent_s < 0.2:
        time.sleep(0.01)


def test_one_that_was_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    with deadline(Running(), at_s=0.05):
        for _ in range(3):
            with pytest.raises(HoursOver):
                time.sleep(60)


@pytest.mark.parametrize("at_s", [0.0, 1e-4, 2e-4, 5e-4, 1e-3])
def test_at_whatever_instant_it_is_reached_nothing_of_it_is_left(at_s: float) -> None:
    before, threads = signal.getsignal(SIGNAL), threading.active_count()
    for _ in range(20):
        with contextlib.suppress(HoursOver), deadline(Running(), at_s):
            time.sleep(0.0005)
    assert signal.getsignal(SIGNAL) == before
    assert threading.active_count() == threads


def test_one_that_comes_while_the_block_is_left_neither_raises_nor_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered = threading.Condition.__enter__

    def late(condition: threading.Condition) -> bool:
        taken = entered(condition)
        if threading.get_ident() == threading.main_thread().ident and clock.spent_s > 1.0:
            signal.raise_signal(SIGNAL)  # as the lock of the deadline's own event is taken
        return taken

    clock, threads = Still(0.0), threading.active_count()
    monkeypatch.setattr(threading.Condition, "__enter__", late)
    with deadline(clock, at_s=1.0):
        clock.spent_s = 2.0
    assert threading.active_count() == threads


def test_a_signal_of_somebody_else_is_passed_over() -> None:
    with deadline(Running(), at_s=1e9):
        signal.raise_signal(SIGNAL)
