"""A folder for what is made on the way, which goes with its process: what a kill left is removed by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """An empty folder in `folder` whose name begins with `prefix`; those that no process holds any more are removed."""
    for left in folder.glob(f"{prefix}*"):
        _remove(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as place:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel lets go of it however the process ends
            yield Path(place)
        finally:
            os.close(descriptor)


def _remove(left: Path) -> None:
    """Remove a folder, unless a process is at work in it."""
    try:
        descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # removed meanwhile
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
