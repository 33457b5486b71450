"""A reading of a run's clock at which whatever its process does is broken off. Imports no torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SIGNAL = signal.SIGVTALRM  # which nothing else here uses
AGAIN_S = 10.0  # an exception that is raised while an object is deleted, say, is lost


class Time(Protocol):
    """What is read of a clock (train.clock.Clock)."""

    @property
    def spent_s(self) -> float: ...


class HoursOver(BaseException):
    """The clock has come to where the process may do no more of what it did."""


@contextmanager
def deadline(clock: Time, at_s: float) -> Iterator[None]:
    """Raise HoursOver in the main thread once `clock` shows `at_s`, as long as the block lasts.

    with deadline(clock, at_s=0.999 * allowance_s):
        ...     # load, train

    Python raises it between two of its own operations: a call into a library that does not come back until it is done,
    such as the backward pass of a batch, is waited for. To be entered in the main thread.
    """
    left, is_left = threading.Event(), False

    def reached(*_: object) -> None:
        if not is_left and clock.spent_s >= at_s:
            raise HoursOver

    before = signal.signal(SIGNAL, reached)
    thread = threading.Thread(target=_watch, args=(clock, at_s, left), name="deadline", daemon=True)
    try:
        thread.start()
        yield
    finally:
        is_left = True  # no call before this: raised within one of the event's, it would leave its lock taken for ever
        left.set()
        thread.join()
        signal.signal(SIGNAL, before)


def _watch(clock: Time, at_s: float, left: threading.Event) -> None:
    main = threading.main_thread().ident
    assert main is not None
    wait_s = at_s - clock.spent_s
    while not left.wait(max(0.0, wait_s)):
        wait_s = at_s - clock.spent_s
        if wait_s <= 0.0:
            signal.pthread_kill(main, SIGNAL)
            wait_s = AGAIN_S
