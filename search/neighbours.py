"""Who else uses the card, and waiting until there is room for a trial. Asks nvidia-smi; imports no torch.

What nvidia-smi does not tell is None: without an answer (a driver that hangs, a card in MIG mode) nobody is waited for.
It names processes that compute; what a desktop or a game takes is seen in the memory used, without a name.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from search.budget import Ending
from search.clock import Clock

PATIENCE_S = 30.0  # for nvidia-smi
POLL_S = 30.0
LOOK_S = 0.5  # between two looks at whether the night is over
DESKTOP_BYTES = 3 * 2**29  # used by nobody who is named: a desktop, which does not go away by waiting
MIB = 2**20


@dataclass(frozen=True)
class Neighbour:
    """A process that computes on the card. `name` and `user` are empty, `used_bytes` None, where they are not told."""

    pid: int
    name: str
    used_bytes: int | None
    user: str = ""

    def __str__(self) -> str:
        known = [self.name, "" if self.used_bytes is None else gib(self.used_bytes), self.user and f"user {self.user}"]
        facts = ", ".join(filter(None, known))
        return f"process {self.pid} ({facts})" if facts else f"process {self.pid}"


@dataclass(frozen=True)
class Usage:
    """The card's memory, and who computes on it."""

    total_bytes: int
    free_bytes: int
    neighbours: tuple[Neighbour, ...]

    def without(self, ours: Collection[int]) -> Usage:
        """As it would be if the processes `ours` were gone."""
        mine = [n for n in self.neighbours if n.pid in ours]
        others = tuple(n for n in self.neighbours if n.pid not in ours)
        return Usage(self.total_bytes, self.free_bytes + sum(n.used_bytes or 0 for n in mine), others)

    @property
    def unnamed_bytes(self) -> int:
        """What is used by nobody who is named; 0 where somebody who is does not say how much."""
        if any(n.used_bytes is None for n in self.neighbours):
            return 0
        named = sum(n.used_bytes or 0 for n in self.neighbours)
        return max(0, self.total_bytes - self.free_bytes - named)

    def who(self) -> str:
        """Whom one waits for, in words; an empty string where it is nobody but a desktop."""
        named = [str(n) for n in sorted(self.neighbours, key=lambda n: (-(n.used_bytes or 0), n.pid))]
        if self.unnamed_bytes > DESKTOP_BYTES:
            named.append(f"processes that the driver does not name ({gib(self.unnamed_bytes)})")
        return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]])) if named else ""


def gib(size: int) -> str:
    """`3.2 GiB`."""
    return f"{size / 2**30:.1f} GiB"


def usage() -> Usage | None:
    """The memory of the card that a worker would use, at this moment; None where nvidia-smi does not tell it."""
    memory = _ask("--query-gpu=memory.total,memory.free")
    if not memory or None in (sizes := [_size(part) for part in memory[0].split(",")]) or len(sizes) != 2:
        return None
    lines = _ask("--query-compute-apps=pid,used_memory,process_name")
    found = tuple(n for line in lines or () if (n := _neighbour(line)) is not None)
    return Usage(sizes[0] or 0, sizes[1] or 0, found)


def wait_for_room(
    needed_bytes: int,
    clock: Clock,
    over: Callable[[], Ending | None],
    say: Callable[[str], None],
    ours: Collection[int] = (),
    look: Callable[[], Usage | None] = usage,
) -> Ending | None:
    """Wait until the card has room, which costs nothing of the budget; returns why the night is over, if it is.

    `over` is asked twice a second, `say` is told whom one waits for whenever they change. `ours` are processes whose
    memory will be free: the worker's.
    """
    said: tuple[int, ...] | None = None
    while (seen := look()) is not None and (who := waited_for(needed_bytes, seen, ours)):
        if ending := over():
            return ending
        if said != (pids := tuple(sorted(n.pid for n in seen.neighbours))):
            said = pids
            say(who)
        again = clock.monotonic() + POLL_S
        while clock.monotonic() < again and not over():
            clock.sleep(LOOK_S)
    return None


def waited_for(needed_bytes: int, seen: Usage, ours: Collection[int] = ()) -> str:
    """Why what needs so much memory has to wait, in one sentence; an empty string where it has not."""
    others = seen.without(ours)
    if others.free_bytes >= needed_bytes or not (who := others.who()):
        return ""
    free = f"{gib(others.free_bytes)} of {gib(others.total_bytes)} are free"
    return f"waiting for memory on the card: {gib(needed_bytes)} are needed, {free}; it is used by {who}"


def _ask(query: str) -> list[str] | None:
    """The lines of nvidia-smi's answer about the first card that this process may see, or None where there is none.

    A driver that hangs holds its processes, too: one that cannot be ended is left behind.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    card = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    arguments = [program, f"--id={card}", query, "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        return None
    try:
        answer = asked.communicate(timeout=PATIENCE_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        asked.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.wait(1.0)
        return None
    finally:
        assert asked.stdout is not None
        asked.stdout.close()
    return [line.strip() for line in answer.splitlines() if line.strip()] if asked.returncode == 0 else None


def _size(text: str) -> int | None:
    """`4096` (MiB) in bytes; None for `[N/A]`, `[Not Supported]` and the like."""
    text = text.strip()
    return int(text) * MIB if text.isascii() and text.isdigit() else None


def _neighbour(line: str) -> Neighbour | None:
    """One line: `1234, 4096, /usr/bin/python3`. A name in brackets is none: the process is of another container."""
    pid, size, name = ([part.strip() for part in line.split(",", 2)] + ["", ""])[:3]
    if not (pid.isascii() and pid.isdigit()):
        return None
    known = bool(name) and not name.startswith("[")
    return Neighbour(int(pid), name if known else "", _size(size), _user(int(pid)) if known else "")


def _user(pid: int) -> str:
    try:
        return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
    except (OSError, KeyError):
        return ""
