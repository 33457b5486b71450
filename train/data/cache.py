"""What was made of data once and need not be made again: facts and arrays, kept in the user's cache folder.

An entry is one file: the SHA-256 of what follows it, a line of JSON (facts, and the name, type and shape of each
array), and the arrays' bytes. It is renamed into place whole, and one that is damaged, cut off or of another layout
counts as absent. A cache that cannot be written costs time and nothing else. Whoever keeps an entry removes those that
nobody used for UNUSED_DAYS. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path
from typing import Any

from train.base import cache_folder

UNUSED_DAYS = 60


@dataclass(frozen=True)
class Entry:
    """Facts as JSON holds them, and numpy arrays by name."""

    facts: dict[str, Any]
    arrays: dict[str, Any]


def key(*parts: Any) -> str:
    """A name for what these parts decide, the same in every process. Parts are what JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@remembered
def code(*names: str) -> str:
    """A digest of modules of `train`, like "data/rows": what other code made does not pass for what this would make."""
    folder = Path(__file__).parents[1]
    return key([hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in names])


def path(kind: str, name: str) -> Path:
    """Where an entry is kept."""
    return cache_folder() / kind / name


def load(kind: str, name: str) -> Entry | None:
    """The entry of that kind and name, or None where there is none that is whole. It counts as used now."""
    try:
        digest, _, rest = path(kind, name).read_bytes().partition(b"\n")
    except OSError:
        return None
    with suppress(OSError):
        os.utime(path(kind, name))
    if digest != hashlib.sha256(rest).hexdigest().encode():
        return None
    head, _, data = rest.partition(b"\n")
    described = json.loads(head)
    return Entry(described["facts"], _arrays(described["arrays"], data))


def store(kind: str, name: str, entry: Entry) -> None:
    """Keep an entry, in the place of an earlier one."""
    described = {n: [array.dtype.str, list(array.shape)] for n, array in entry.arrays.items()}
    head = json.dumps({"facts": entry.facts, "arrays": described}).encode()
    rest = b"\n".join([head, b"".join(array.tobytes() for array in entry.arrays.values())])
    target = path(kind, name)
    staged = target.with_name(f".{name}.{os.getpid()}.tmp")
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_bytes(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
            os.replace(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        _prune(target.parent)


def _prune(folder: Path) -> None:
    """Remove what lay unused, unfinished files of processes that were killed among it."""
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for file in folder.iterdir():
        if file.stat().st_mtime < oldest:
            file.unlink(missing_ok=True)


def _arrays(described: Mapping[str, Any], data: bytes) -> dict[str, Any]:
    """Read-only views of the bytes."""
    if not described:
        return {}
    import numpy as np

    found, start = {}, 0
    for name, (kind, shape) in described.items():
        count = math.prod(shape)
        found[name] = np.frombuffer(data, dtype=np.dtype(kind), count=count, offset=start).reshape(shape)
        start += count * np.dtype(kind).itemsize
    return found
