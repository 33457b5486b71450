"""Other processes at work on a study database, and the means to hurt it."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path


class Child:
    """A spawned process that calls `target(*args, pipe)`. Whoever waits for a dead one gets EOFError."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(*args, theirs))
        self.process.start()
        theirs.close()

    def join(self) -> None:
        """Wait for its end, which must be a good one."""
        self.process.join()
        assert self.process.exitcode == 0

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.join()


def start_together(target: Callable[..., None], args: Sequence[tuple[object, ...]]) -> list[Child]:
    """One child for each of `args`; none goes on from its `pipe.recv()` before all have sent that they are ready."""
    children = [Child(target, *each) for each in args]
    for child in children:
        assert child.pipe.recv() == "ready"
    for child in children:
        child.pipe.send("go")
    return children


def leave_half_written(path: Path) -> None:
    """Leave `path` as a power cut in the middle of a large transaction does: pages overwritten, a hot journal beside.

    The transaction would delete every table's rows and grow the file.
    """
    live = path.with_name("live.db")
    shutil.move(path, live)
    writer = sqlite3.connect(live, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # spill pages before the commit
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("CREATE TABLE junk (text)")
    writer.executemany("INSERT INTO junk VALUES (?)", [("x" * 500,)] * 500)
    writer.execute("DROP TABLE entry")
    shutil.copy(live, path)
    shutil.copy(f"{live}-journal", f"{path}-journal")
    writer.execute("ROLLBACK")
    writer.close()
    live.unlink()
