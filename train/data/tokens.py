"""The tokens of rows, each row's made when it is first drawn, once: kept in the process and on disk.

What decides tokens names the entry on disk: the rows (sources.Corpus.digest), the template, the tokenizer's own
description, the libraries' versions and this code. A tokenizer that cannot describe itself is not kept on disk.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from train.chat import Chat, Ids
from train.data import cache
from train.data.rows import Pair
from train.data.sources import Corpus

Sides = tuple[Ids, ...]  # of a chat one; of a pair the chosen and the rejected one

_KIND = "tokens"
_CODE = ("chat", "data/tokens")
_LIBRARIES = ("jinja2", "tokenizers", "transformers")

_shelves: WeakKeyDictionary[Any, dict[tuple[str, str], _Shelf]] = WeakKeyDictionary()
_described: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()


class Tokens:
    """The tokens of any corpus under one chat template."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self._known = chat, _shelves.setdefault(chat.tokenizer, {})

    def length(self, corpus: Corpus, index: int) -> int:
        """Tokens of a row; of a pair, of its longer side."""
        return self._shelf(corpus).length(index)

    def example(self, corpus: Corpus, index: int) -> Ids:
        """The tokens of a chat."""
        (ids,) = self._shelf(corpus).sides(index)
        return ids

    def sides(self, corpus: Corpus, index: int) -> Sides:
        """The tokens of a row."""
        return self._shelf(corpus).sides(index)

    def keep(self) -> None:
        """Put on disk what is not there yet."""
        for shelf in self._known.values():
            shelf.keep()

    def _shelf(self, corpus: Corpus) -> _Shelf:
        at = (self.chat.template, corpus.digest)
        if at not in self._known:
            self._known[at] = _Shelf(self.chat, corpus)
        return self._known[at]


class _Shelf:
    """The tokens of one corpus: those found on disk, and those made since."""

    def __init__(self, chat: Chat, corpus: Corpus) -> None:
        self._chat, self._corpus = chat, corpus
        self._name = _name(chat, corpus)
        self._stored = _Stored(self._loaded())
        self._made: dict[int, Sides] = {}
        self._new = False

    def length(self, index: int) -> int:
        if (known := self._stored.length(index)) is not None:
            return known
        return max(ids.length for ids in self.sides(index))

    def sides(self, index: int) -> Sides:
        if index not in self._made:
            found = self._stored.sides(index)
            self._made[index] = found or self._tokenized(index)
            self._new |= found is None
        return self._made[index]

    def keep(self) -> None:
        """Store what was made, together with what other processes have stored since."""
        if self._new and self._name is not None:
            theirs = _Stored(self._loaded())
            cache.store(_KIND, self._name, _entry({**dict(theirs), **dict(self._stored), **self._made}))
            self._new = False

    def _loaded(self) -> cache.Entry | None:
        return None if self._name is None else cache.load(_KIND, self._name)

    def _tokenized(self, index: int) -> Sides:
        row = self._corpus.row(index)
        answers = (row.chosen, row.rejected) if isinstance(row, Pair) else (row.answer,)
        place = f"data source {self._corpus.source.name!r}, row {index + 1}"
        return tuple(self._chat.ids(row.prompt, answer, place) for answer in answers)


class _Stored:
    """An entry as it lies on disk: for each side of a row its number and lengths, and all tokens one after another."""

    def __init__(self, entry: cache.Entry | None) -> None:
        self._sides: dict[int, list[tuple[int, int, int]]] = {}  # row -> where each side begins, its answer, its end
        self._flat = np.zeros(0, dtype=np.int32)
        if entry is not None:
            self._flat = entry.arrays["tokens"]
            lengths = entry.arrays["lengths"]
            ends = lengths.sum(axis=1).cumsum()
            starts = ends - lengths.sum(axis=1)
            spans = np.stack([starts, starts + lengths[:, 0], ends], axis=1).tolist()
            for row, (start, answer, end) in zip(entry.arrays["rows"].tolist(), spans, strict=True):
                self._sides.setdefault(row, []).append((start, answer, end))

    def __iter__(self) -> Iterator[tuple[int, Sides]]:
        for row in self._sides:
            sides = self.sides(row)
            assert sides is not None
            yield row, sides

    def length(self, row: int) -> int | None:
        sides = self._sides.get(row)
        return max(end - start for start, _, end in sides) if sides else None

    def sides(self, row: int) -> Sides | None:
        sides = self._sides.get(row)
        if sides is None:
            return None
        return tuple(Ids(self._cut(start, answer), self._cut(answer, end)) for start, answer, end in sides)

    def _cut(self, start: int, end: int) -> array[int]:
        return array("i", self._flat[start:end].tobytes())


def _entry(known: dict[int, Sides]) -> cache.Entry:
    sides = [(row, ids) for row, both in sorted(known.items()) for ids in both]
    flat = b"".join(part.tobytes() for _, ids in sides for part in (ids.prompt, ids.answer))
    arrays = {
        "rows": np.array([row for row, _ in sides], dtype=np.int64),
        "lengths": np.array([(len(ids.prompt), len(ids.answer)) for _, ids in sides], dtype=np.int64).reshape(-1, 2),
        "tokens": np.frombuffer(flat, dtype=np.int32),
    }
    return cache.Entry({}, arrays)


def _name(chat: Chat, corpus: Corpus) -> str | None:
    tokenizer = _description(chat.tokenizer)
    if tokenizer is None:
        return None
    versions = [version(name) for name in _LIBRARIES]
    return cache.key(cache.code(*_CODE), versions, corpus.digest, chat.template, tokenizer)


def _description(tokenizer: Any) -> str | None:
    """A digest of all that the tokenizer and its special tokens are; None for one that is no `tokenizers` one."""
    if tokenizer not in _described:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            _described[tokenizer] = None
        else:
            text = backend.to_str()
            lasting = text[text.index('"added_tokens"') :]  # before it: the padding of whoever used it last
            special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
            digest = hashlib.sha256(lasting.encode()).hexdigest()
            _described[tokenizer] = cache.key(digest, special, tokenizer.eos_token_id)
    return _described[tokenizer]
