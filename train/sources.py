"""Reading and checking data sets: JSONL files and hub data sets become rows of chat messages. Imports no torch.

What a row may look like is in train.rows. A problem is never skipped: every one of every source is told at once, with
its place, in one RecipeError.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from train.hub import hub_folder
from train.recipe import Frozen, RecipeError, Sha256, Source
from train.rows import BadRow, Example, Message, Pair, Record, Row, example, kind_of, pair, texts

__all__ = ["Example", "Message", "Pair", "Row", "SourceFacts", "fingerprint", "inspect_sources", "read"]

_PROBLEMS_SHOWN = 5  # of each source


class SourceFacts(Frozen):
    """What is known of a data source before a run. `fields` are those of its first row; sizes are UTF-8 bytes of a
    row's text, prompt and answers together."""

    rows: int
    sha256: Sha256
    fields: tuple[str, ...]
    median_bytes: int
    max_bytes: int


def read(source: Source) -> list[Row]:
    """Every row of a source, in its order. Raises RecipeError with all of its problems."""
    rows, _fields, problems = _checked(source)
    if problems:
        raise RecipeError("\n".join(problems))
    return rows


def fingerprint(source: Source) -> str:
    """SHA-256 of a file's bytes; of a hub data set, of its revision, split and rows.

    Raises RecipeError where the source cannot be read, or is not what its `sha256` pins.
    """
    return _pinned(source, _digest(source))


def inspect_sources(sources: Iterable[Source]) -> dict[str, SourceFacts]:
    """Facts about every source, by name. Raises one RecipeError with the problems of all of them, one a line."""
    facts: dict[str, SourceFacts] = {}
    problems: list[str] = []
    for source in sources:
        try:
            facts[source.name] = _facts(source)
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return facts


def _facts(source: Source) -> SourceFacts:
    rows, fields, problems = _checked(source)
    if problems:
        raise RecipeError("\n".join(problems))
    sizes = [sum(len(text.encode()) for text in texts(row)) for row in rows]
    return SourceFacts(
        rows=len(rows),
        sha256=fingerprint(source),
        fields=fields,
        median_bytes=statistics.median_low(sizes),
        max_bytes=max(sizes),
    )


# From an origin to records: what stands in one line of a file, or in one row of a hub data set


def _origin(source: Source) -> str:
    return f"data source {source.name!r} ({source.path or source.hub})"


def _checked(source: Source) -> tuple[list[Row], tuple[str, ...], list[str]]:
    """Rows, the fields of the first one, and problems, one line each."""
    parse: Callable[[Record], Row] = example if source.use == "sft" else pair
    rows: list[Row] = []
    fields: tuple[str, ...] = ()
    problems: list[str] = []
    for place, record in _records(source):
        try:
            if isinstance(record, BadRow):
                raise record
            if not isinstance(record, Mapping):
                raise BadRow(f"is {kind_of(record)}, not an object with named fields")
            fields = fields or tuple(record)
            rows.append(parse(record))
        except BadRow as problem:
            problems.append(f"{_origin(source)}, {place}: {problem}")
    if not rows and not problems:
        problems.append(f"{_origin(source)} is empty; give it rows or leave the source out")
    if (more := len(problems) - _PROBLEMS_SHOWN) > 0:
        problems[_PROBLEMS_SHOWN:] = [f"{_origin(source)}: and {more:,} more rows with problems"]
    return rows, fields, problems


def _records(source: Source) -> Iterable[tuple[str, Any]]:
    if source.hub is None:
        return _lines(source)
    try:
        rows = _hub_rows(source.hub, source.revision, source.split)
    except RecipeError as error:
        raise RecipeError(f"{_origin(source)}: {error}") from error.__cause__
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _lines(source: Source) -> Iterator[tuple[str, Any]]:
    """Place and value of each line that is not blank. Raises RecipeError for a file that is no text."""
    data = _file_bytes(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        named = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "not UTF-8"
        raise RecipeError(f"{_origin(source)}, line {line}: the file is {named}; save it as UTF-8 JSONL") from None
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
        raise RecipeError(f"{_origin(source)}: there is no such file; correct its path") from None
    except IsADirectoryError:
        raise RecipeError(f"{_origin(source)} is a folder; give the JSONL file in it") from None
    except OSError as error:
        raise RecipeError(f"{_origin(source)} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4)
def _hub_rows(hub: str, revision: str | None, split: str) -> tuple[Record, ...]:
    """The rows of a hub data set, out of the hub's cache where it is there."""
    folder = hub_folder(hub, "dataset", revision)
    import datasets  # half a second, and only for a source on the hub

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(str(folder), split=split)
    except Exception as error:  # builders raise whatever their parser does
        reason = " ".join(str(error).split())
        raise RecipeError(f"split {split!r} cannot be read: {reason}") from error
    return tuple(loaded)


@lru_cache(maxsize=16)
def _hub_digest(source: Source) -> str:
    digest = hashlib.sha256(f"{source.hub}\n{source.revision}\n{source.split}\n".encode())
    for row in read(source):
        digest.update(json.dumps([*_roles(row), *texts(row)]).encode() + b"\n")
    return digest.hexdigest()


def _roles(row: Row) -> Iterator[str]:
    messages = row.messages if isinstance(row, Example) else row.prompt
    return (message.role for message in messages)


def _digest(source: Source) -> str:
    if source.hub is None:
        return hashlib.sha256(_file_bytes(source)).hexdigest()
    return _hub_digest(source.model_copy(update={"weight": 1.0, "sha256": None}))


def _pinned(source: Source, digest: str) -> str:
    if source.sha256 not in (None, digest):
        raise RecipeError(
            f"{_origin(source)} is not the data that was pinned: sha256 is {digest}, not {source.sha256}; "
            "get the pinned data again, or start a new study on this"
        )
    return digest
