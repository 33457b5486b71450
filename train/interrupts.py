"""How a person or the machine ends a run that is to go on later, and that one process works in a folder at a time."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from train.recipe import RecipeError
from train.rundir import RunDir

_LOCK = ".lock"


class Stopped(BaseException):
    """The process is to end before the run does: `why` in words, and the exit code."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.why, self.code = why, code

    @classmethod
    def by(cls, number: int) -> Stopped:
        """By a signal."""
        return cls("stopped", 128 + number)


class Signals:
    """SIGINT and SIGTERM raise Stopped; while `patient`, the first one waits for the next checkpoint instead.

    with Signals() as signals: ...  # the handlers that were there before come back afterwards
    """

    def __init__(self) -> None:
        self.patient = False
        self.number = 0

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _caught(self, number: int, _frame: object) -> None:
        if self.number or not self.patient:
            raise Stopped.by(number)
        self.number = number


@contextmanager
def one_at_a_time(run: RunDir) -> Iterator[None]:
    """Hold the folder of `run` for this process, making it where it is missing.

    Raises RecipeError where another process holds it. The kernel lets go of the lock however the process ends.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with open(run.path / _LOCK, "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(f"another process is at work in {run.path}; wait for it, or end it") from None
        yield


def at_work(run: RunDir) -> bool:
    """Whether a process holds the folder of `run`."""
    try:
        with open(run.path / _LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
