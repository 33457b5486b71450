"""Who works on a study: one service at a time, kept by a file lock, and named in service.json for others to see."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.errors import SearchError, StudyBusy
from storage.attempts import Holder, alive
from train.rundir import Json, taken, write_json

LOCK = ".lock"
FACTS = "service.json"
ANEW = "the next `nightshift start` writes it anew"


@dataclass(frozen=True)
class Facts:
    """What the last or present service was asked to do, and why it ended (empty while it has not said)."""

    holder: Holder
    trials_wanted: int
    budget_s: float
    until: str | None
    ending: str

    @property
    def is_alive(self) -> bool:
        """Whether that service is still at work, on this machine."""
        return not self.ending and alive(self.holder)


def read(folder: Path) -> Facts | None:
    """The last service's facts, or None where no service ever ran. Raises Damaged where the file does not hold them."""
    return taken(folder / FACTS, lambda found: Facts(**{**found, "holder": Holder(**found["holder"])}), ANEW)


class Claim:
    """A study that this process holds. Others see it from `announce` on, and why it ended once `ending` is set."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._announced: Json | None = None
        self.ending = "it failed"

    def announce(self, *, trials_wanted: int, budget_s: float, until: str | None) -> None:
        """Let `status` find the study, whose database has to be there by now."""
        self._announced = {
            "holder": vars(Holder.of_process(os.getpid())).copy(),
            "trials_wanted": trials_wanted,
            "budget_s": budget_s,
            "until": until,
            "ending": "",
        }
        write_json(self._folder / FACTS, self._announced)

    def close(self) -> None:
        """Leave the ending for others to read."""
        if self._announced:
            write_json(self._folder / FACTS, {**self._announced, "ending": self.ending})


@contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Hold the study in `folder` for this process. Raises StudyBusy, naming the process, where another one holds it.

    The kernel lets go of the lock when the process ends, however it ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SearchError(f"{folder} is a file, and the study needs a folder of this name; move it away") from None
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _busy(folder) from None
        held = Claim(folder)
        try:
            yield held
        finally:
            held.close()
    finally:
        os.close(descriptor)


def _busy(folder: Path) -> StudyBusy:
    facts = read(folder)
    who = f"process {facts.holder.pid} on {facts.holder.host}" if facts else "another process"
    watch, end = (shlex.join(["nightshift", command, str(folder)]) for command in ("status", "stop"))
    return StudyBusy(f"{folder}: {who} is at work on this study. Watch it with `{watch}`, or end it with `{end}`.")
