"""Data sources, read and checked: which rows each has to train on, and what was left out. Imports no torch.

Records come from `origins`, in structures that `formats` and `rows` know; `filters` says which rows
stay. A problem is never skipped unless the source says so: every one of every source is told at once, with its place,
in one RecipeError. What a source came to is kept on disk by what decided it (its bytes, its settings, the evaluation
prompts, this code), so that it is read and judged once.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from train.data import cache, filters, origins, overlap
from train.data.filters import Keys
from train.data.formats import adapted
from train.data.origins import origin
from train.data.rows import BadRow, Example, Message, Pair, Record, Row, every_answer, example, kind_of, pair, texts
from train.recipe import Frozen, PromptFile, RecipeError, Sha256, Source

__all__ = [
    "Corpus",
    "Example",
    "Message",
    "Pair",
    "Row",
    "SourceFacts",
    "corpus",
    "fingerprint",
    "inspect_sources",
    "read",
]

_PROBLEMS_SHOWN = 5  # of each source
_CODE = tuple(
    f"data/{name}"
    for name in ("filters", "formats", "near", "origins", "overlap", "refusals", "rows", "sources", "trees")
)


class SourceFacts(Frozen):
    """What is known of a data source before a run. `fields` are those of its first record; sizes are UTF-8 bytes of a
    row's text, prompt and answers together.

    `rows` are those left to train on: `rows_read` less those that the filters `removed`, which are counted by reason.
    `left_out` counts what never became a row, by reason: messages of trees, questions that nobody answered.
    `overlap_with` are the files of evaluation prompts that the rows were compared with, pinned.
    """

    rows: int
    sha256: Sha256
    fields: tuple[str, ...]
    median_bytes: int
    max_bytes: int
    rows_read: int
    removed: dict[str, int]
    left_out: dict[str, int]
    overlap_with: tuple[PromptFile, ...] = ()


@dataclass(frozen=True, eq=False)
class Corpus:
    """The rows of a source that may be trained on; `digest` names them, and whatever decided which they are.

    `keys` has what each row must not have in common with a held-out one (filters.keys), `answer_bytes` the UTF-8
    bytes of its answer (of a pair, of the chosen one). The text itself is read when a row is first asked for.
    """

    source: Source
    digest: str
    facts: SourceFacts
    keys: tuple[Keys, ...]
    answer_bytes: tuple[int, ...]
    _places: tuple[int, ...] = field(repr=False)  # of the rows among all that the source has
    _rows: list[Row] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, index: int) -> Row:
        """A row with its text. Raises RecipeError where the source is not there any more, or not as it was."""
        if not self._rows:
            if origins.digest(self.source) != self.facts.sha256:
                raise RecipeError(f"{origin(self.source)} was changed while it was read; start again")
            every = _parse(self.source).rows
            self._rows.extend(every[place] for place in self._places)
        return self._rows[index]


def read(source: Source) -> list[Row]:
    """The rows of a source that its filters leave, in its order. Raises RecipeError with all of its problems."""
    found = corpus(source)
    return [found.row(index) for index in range(len(found))]


def fingerprint(source: Source) -> str:
    """SHA-256 of a file's bytes; of a hub data set, of its split's records: the data before any filter.

    Raises RecipeError where the source cannot be read, or is not what its `sha256` pins.
    """
    digest = origins.digest(source)
    if source.sha256 not in (None, digest):
        raise RecipeError(
            f"{origin(source)} is not the data that was pinned: sha256 is {digest}, not {source.sha256}; "
            "get the pinned data again, or start a new study on this"
        )
    return digest


def inspect_sources(sources: Iterable[Source]) -> dict[str, SourceFacts]:
    """Facts about every source, by name. Raises one RecipeError with the problems of all of them, one a line."""
    facts: dict[str, SourceFacts] = {}
    problems: list[str] = []
    for source in sources:
        try:
            facts[source.name] = corpus(source).facts.model_copy(update={"overlap_with": _pinned_prompts(source)})
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return facts


def corpus(source: Source) -> Corpus:
    """The source as it is trained on, made once. Raises RecipeError with all of its problems.

    A file of evaluation prompts whose digest is pinned is opened only where the rows have not been compared with it
    yet. So a trial's process, whose service did that, does not open it.
    """
    sha256 = fingerprint(source)
    pinned = source.filters.overlap_with if source.filters.overlap == "drop" else ()
    compared = pinned if all(file.sha256 for file in pinned) else _pinned_prompts(source)
    against = tuple(str(prompts.sha256) for prompts in compared)
    return _corpus(source.model_copy(update={"weight": 1.0, "sha256": None}), sha256, against)


def _pinned_prompts(source: Source) -> tuple[PromptFile, ...]:
    if source.filters.overlap == "keep":
        return ()
    try:
        return tuple(PromptFile(path=file.path, sha256=overlap.digest(file)) for file in source.filters.overlap_with)
    except RecipeError as error:
        raise RecipeError(f"{origin(source)}: {error}") from None


@lru_cache(maxsize=16)
def _corpus(source: Source, sha256: str, against: tuple[str, ...]) -> Corpus:
    settings = source.model_dump(mode="json", include={"use", "format", "fields", "answers", "rows", "filters"})
    settings["filters"]["overlap_with"] = sorted(set(against))
    made_by = [cache.code(*_CODE), platform.python_version(), version("langdetect")]  # Python knows what a letter is
    digest = cache.key(made_by, settings, sha256)
    if (known := cache.load("corpora", digest)) is None:
        made = _make(source, digest, sha256)
        cache.store("corpora", digest, _entry(made))
        return made
    return _opened(source, digest, known)


# Made


@dataclass(frozen=True)
class _Parsed:
    """Every row of a source, the fields of its first record, problems by place, and counts of what became no row."""

    rows: list[Row]
    fields: tuple[str, ...]
    problems: list[str]
    left_out: Counter[str]


def _make(source: Source, digest: str, sha256: str) -> Corpus:
    parsed = _parse(source)
    removed: Counter[str] = Counter()
    if parsed.problems and source.filters.bad_rows == "refuse":
        raise RecipeError(_told(source, parsed.problems))
    if parsed.problems:
        removed["bad rows"] = len(parsed.problems)
    try:
        places = filters.kept(parsed.rows, source.filters, source.rows, removed)
    except RecipeError as error:
        raise RecipeError(f"{origin(source)}: {error}") from None
    rows = [parsed.rows[place] for place in places]
    if not rows:
        raise RecipeError(_nothing_left(source, parsed, removed))
    sizes = [sum(len(text.encode()) for text in texts(row)) for row in rows]
    facts = SourceFacts(
        rows=len(rows),
        sha256=sha256,
        fields=parsed.fields,
        median_bytes=statistics.median_low(sizes),
        max_bytes=max(sizes),
        rows_read=len(parsed.rows) + removed["bad rows"],
        removed={reason: count for reason, count in removed.items() if count},
        left_out=dict(parsed.left_out),
    )
    answers = tuple(len((row.answer if isinstance(row, Example) else row.chosen).encode()) for row in rows)
    return Corpus(source, digest, facts, tuple(map(filters.keys, rows)), answers, tuple(places), rows)


def _parse(source: Source) -> _Parsed:
    parse: Callable[[Record], Row] = example if source.use == "sft" else pair
    parsed = _Parsed([], (), [], Counter())
    fields: list[str] = []
    for place, record in adapted(source, _noting(fields, origins.records(source)), parsed.left_out):
        try:
            row = parse(_checked(record))
            if source.answers == "every" and isinstance(row, Example):
                parsed.rows.extend(every_answer(row))
            else:
                parsed.rows.append(row)
        except BadRow as problem:
            parsed.problems.append(f"{origin(source)}, {place}: {problem}")
    return _Parsed(parsed.rows, tuple(fields), parsed.problems, +parsed.left_out)


def _noting(fields: list[str], records: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
    """The records; `fields` gets the names of the first one's."""
    for place, record in records:
        if not fields and isinstance(record, Mapping):
            fields.extend(record)
        yield place, record


def _checked(record: Any) -> Record:
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, Mapping):
        raise BadRow(f"is {kind_of(record)}, not an object with named fields")
    return record


def _told(source: Source, problems: list[str]) -> str:
    """The first problems, one a line, and what to do about them."""
    lines = problems[:_PROBLEMS_SHOWN]
    if (more := len(problems) - len(lines)) > 0:
        lines.append(f"{origin(source)}: and {more:,} more rows with problems")
    if source.hub is not None:
        lines[-1] += ' (to leave such rows out, set filters = { bad_rows = "drop" })'
    return "\n".join(lines)


def _nothing_left(source: Source, parsed: _Parsed, removed: Counter[str]) -> str:
    counts = ", ".join(f"{count:,} by {reason}" for reason, count in removed.items() if count)
    if counts:
        total = len(parsed.rows) + removed["bad rows"]
        first = f"; the first bad row: {parsed.problems[0]}" if parsed.problems else ""
        return f"{origin(source)}: its filters leave none of {total:,} rows ({counts}); loosen them{first}"
    if parsed.left_out:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in parsed.left_out.items())
        return f"{origin(source)} has no answered question ({counts}); give it other rows or leave the source out"
    return f"{origin(source)} is empty; give it rows or leave the source out"


# Kept on disk


def _entry(made: Corpus) -> cache.Entry:
    import numpy as np

    flat = b"".join(key for keys in made.keys for key in keys)
    arrays = {
        "keys": np.frombuffer(flat, dtype=np.uint8).reshape(-1, 32),
        "keys_of_row": np.array([len(keys) for keys in made.keys], dtype=np.int32),
        "answer_bytes": np.array(made.answer_bytes, dtype=np.int64),
        "places": np.array(made._places, dtype=np.int64),
    }
    return cache.Entry(made.facts.model_dump(mode="json"), arrays)


def _opened(source: Source, digest: str, entry: cache.Entry) -> Corpus:
    flat = entry.arrays["keys"].tobytes()
    ends = entry.arrays["keys_of_row"].cumsum().tolist()
    every = [flat[at : at + 32] for at in range(0, len(flat), 32)]
    keys = tuple(tuple(every[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    facts = SourceFacts.model_validate_json(json.dumps(entry.facts))
    return Corpus(
        source,
        digest,
        facts,
        keys,
        tuple(entry.arrays["answer_bytes"].tolist()),
        tuple(entry.arrays["places"].tolist()),
    )
