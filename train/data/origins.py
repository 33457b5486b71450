"""Where data comes from: the records of a JSONL file, or of a data set on the hub, as they are. Imports no torch."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from train.data import cache
from train.data.rows import BadRow
from train.data.trees import Placed
from train.hub import hub_folder
from train.recipe import RecipeError, Source


def origin(source: Source) -> str:
    """The source's name and place, for messages."""
    return f"data source {source.name!r} ({source.path or source.hub})"


def digest(source: Source) -> str:
    """SHA-256 of a file's bytes; of a hub data set, of its split's records. Raises RecipeError."""
    if source.hub is None:
        return hashlib.sha256(_file_bytes(source)).hexdigest()
    try:
        return _hub_digest(source.hub, source.revision, source.split)
    except RecipeError as error:
        raise RecipeError(f"{origin(source)}: {error}") from error.__cause__


def records(source: Source) -> Iterable[Placed]:
    """What stands in each line of a file, or each row of a hub data set, with its place; BadRow where that is no JSON.

    Raises RecipeError where the source cannot be read at all.
    """
    if source.hub is None:
        return _lines(source)
    try:
        rows = _hub_rows(source.hub, source.revision, source.split)
    except RecipeError as error:
        raise RecipeError(f"{origin(source)}: {error}") from error.__cause__
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _lines(source: Source) -> Iterator[tuple[str, Any]]:
    """Place and value of each line that is not blank. Raises RecipeError for a file that is no text."""
    data = _file_bytes(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        named = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        raise RecipeError(f"{origin(source)}, line {line}: the file is {named}; save it as UTF-8 JSONL") from None
    for number, line_text in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand inside a JSON string
        if line_text.strip():
            yield f"line {number}", _parsed(line_text)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        if line.strip() in ("[", "{"):
            return BadRow("is not JSON by itself; write one whole JSON object a line (JSONL), not an indented array")
        return BadRow(f"is not JSON ({error})")


def _file_bytes(source: Source) -> bytes:
    assert source.path is not None
    path = Path(source.path).expanduser()
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{origin(source)}: there is no such file; correct its path") from None
    except IsADirectoryError:
        raise RecipeError(f"{origin(source)} is a folder; give the JSONL file in it") from None
    except OSError as error:
        raise RecipeError(f"{origin(source)} cannot be read: {error.strerror}") from None


def _hub_rows(hub: str, revision: str | None, split: str) -> Iterable[Any]:
    """The rows of a hub data set, out of the hub's cache where it is there."""
    return _split(hub_folder(hub, "dataset", revision), split)


def _split(folder: Path, split: str) -> Iterable[Any]:
    import datasets  # half a second, and only for a source on the hub

    datasets.disable_progress_bars()
    try:
        loaded: Iterable[Any] = datasets.load_dataset(str(folder), split=split)
    except Exception as error:  # builders raise whatever their parser does
        reason = " ".join(str(error).split())
        raise RecipeError(f"split {split!r} cannot be read: {reason}") from error
    return loaded


@lru_cache(maxsize=16)
def _hub_digest(hub: str, revision: str | None, split: str) -> str:
    """Of an unchanged folder, out of the cache: only then can a run start without reading the data set."""
    folder = hub_folder(hub, "dataset", revision)
    files = sorted((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    stamp = cache.key([(name, status.st_size, status.st_mtime_ns) for name, status in files], str(folder), split)
    if (known := cache.load("data-digests", stamp)) is not None:
        return str(known.facts["sha256"])
    found = hashlib.sha256(f"{hub}\n{split}\n".encode())
    for row in _split(folder, split):
        found.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    cache.store("data-digests", stamp, cache.Entry({"sha256": found.hexdigest()}, {}))
    return found.hexdigest()
