"""Data sets -> tokenized rows in training order, and the held-out probe. A pure function of recipe and files.

The order is made here, once, so that the trainers have no epochs: position i of a stage draws a source by weight, then
the next row of that source's own shuffled order, which is shuffled anew each time it is through. A longer horizon so
begins with the examples of a shorter one, and a larger `rows` with those of a smaller one. Shuffles use
`random.Random(text).random`, whose sequence Python promises to keep, and nothing that differs between processes.

Rows are tokenized when they are first drawn, once in a process: a second trial on the same data costs next to nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

import datasets

from train.chat import IGNORED, Chat, Ids, template_of
from train.recipe import Recipe, RecipeError, Source
from train.rows import Example, Message, Pair, Row
from train.sources import fingerprint, read

__all__ = ["IGNORED", "PROBE_TOKENS", "ProbeRow", "SourceUse", "Splits", "splits"]

PROBE_TOKENS = 2048  # of a probe row at most, so that measuring never needs more memory than training

Use = Literal["sft", "preference"]


@dataclass(frozen=True)
class ProbeRow:
    """One held-out chat; labels are -100 before the response, whose text has `response_bytes` UTF-8 bytes."""

    input_ids: list[int]
    labels: list[int]
    response_bytes: int


@dataclass(frozen=True)
class SourceUse:
    """How a run uses one source. `rows_held_out` is the probe and every other row with a probe row's text.

    `rows_too_long` counts those that this run came to and left out; rows that it never needed were not looked at.
    """

    rows_read: int
    rows_held_out: int
    rows_too_long: int
    rows_used: int  # distinct
    examples: int


@dataclass(frozen=True)
class Splits:
    """What a run trains on and is measured by.

    `sft` has the columns input_ids and labels and recipe.sft_steps * batch_size rows; `dpo` has prompt_ids, chosen_ids
    and rejected_ids (what TRL's DPOTrainer makes of text) and recipe.dpo_steps * batch_size rows. Both are in training
    order and hold int32 lists of each row's own length. `facts` has every source, by name.
    """

    sft: datasets.Dataset
    dpo: datasets.Dataset | None
    probe: tuple[ProbeRow, ...]
    facts: dict[str, SourceUse]


def splits(recipe: Recipe, tokenizer: Any, context: int | None = None) -> Splits:
    """Read, check, hold out, tokenize and order the data of `recipe`.

    `context` is the largest number of tokens that the model takes (None: what the tokenizer says). A row that is longer
    than that or than recipe.max_length is left out and counted, never cut. The probe depends on the files, the
    template and recipe.probe alone. Raises RecipeError for data, templates or mixtures that cannot be trained on.
    """
    tokens = _Tokens(Chat(tokenizer, template_of(recipe, tokenizer)))
    limit = context if context is not None else int(tokenizer.model_max_length)
    corpora = {source.name: _corpus_of(source) for source in recipe.sources}
    probe, held_out = _probe(recipe, corpora, tokens, min(limit, PROBE_TOKENS))
    mixture = _Mixture(recipe, corpora, held_out, tokens, min(limit, recipe.max_length))
    sft = mixture.stage("sft", recipe.sft_steps * recipe.batch_size, recipe.rows)
    dpo = mixture.stage("preference", recipe.dpo_steps * recipe.batch_size, None) if recipe.dpo_steps else None
    return Splits(sft, dpo, probe, mixture.facts)


# Rows, and which of them are the same


@dataclass(frozen=True)
class _Corpus:
    """A source's rows; `keys` has the digest of each row's chat (of both chats, for a pair), spaces made even."""

    source: Source
    digest: str
    rows: tuple[Row, ...]
    keys: tuple[tuple[bytes, ...], ...]

    def held_out(self, probe: frozenset[bytes]) -> list[bool]:
        """Of each row, whether it has the text of a probe row."""
        return [any(key in probe for key in keys) for keys in self.keys]


def _corpus_of(source: Source) -> _Corpus:
    return _read_corpus(source.model_copy(update={"weight": 1.0, "sha256": None}), fingerprint(source))


@lru_cache(maxsize=16)
def _read_corpus(source: Source, digest: str) -> _Corpus:
    rows = tuple(read(source))
    return _Corpus(source, digest, rows, tuple(_keys(row) for row in rows))


def _keys(row: Row) -> tuple[bytes, ...]:
    if isinstance(row, Example):
        return (_key(row.prompt, row.answer),)
    return (_key(row.prompt, row.chosen), _key(row.prompt, row.rejected))


def _key(prompt: Sequence[Message], answer: str) -> bytes:
    turns = [f"{message.role}:{' '.join(message.content.split())}" for message in prompt]
    return hashlib.sha256("\0".join([*turns, " ".join(answer.split())]).encode()).digest()


# The probe


def _probe(
    recipe: Recipe, corpora: dict[str, _Corpus], tokens: _Tokens, limit: int
) -> tuple[tuple[ProbeRow, ...], frozenset[bytes]]:
    """Probe rows and their keys: from each source in turn, by the order of the keys."""
    names = recipe.probe.sources or tuple(source.name for source in recipe.sources if source.use == "sft")
    rows: list[ProbeRow] = []
    taken: set[bytes] = set()
    supplies = [_candidates(corpora[name], tokens, limit, taken) for name in names]
    while supplies and len(rows) < recipe.probe.rows:
        for supply in list(supplies):
            found = next(supply, None)
            if found is None:
                supplies.remove(supply)
            elif len(rows) < recipe.probe.rows:
                key, row = found
                taken.add(key)
                rows.append(row)
    if not rows:
        raise RecipeError(
            f"nothing is left to hold out of {', '.join(names)}: the probe needs a source with at least two different "
            f"rows of at most {limit:,} tokens; add rows, or name other sources in probe.sources"
        )
    return tuple(rows), frozenset(taken)


def _candidates(corpus: _Corpus, tokens: _Tokens, limit: int, taken: set[bytes]) -> Iterator[tuple[bytes, ProbeRow]]:
    """Every second one of the rows that are short enough, so that as many are left to train on; copies once."""
    first_with = {keys[0]: index for index, keys in reversed(list(enumerate(corpus.keys)))}
    second = False
    for key, index in sorted(first_with.items()):
        if key in taken or (ids := tokens.example(corpus, index)).length > limit:
            continue
        if second:
            row = corpus.rows[index]
            assert isinstance(row, Example)
            yield key, ProbeRow(*ids.with_labels(), response_bytes=len(row.answer.encode()))
        second = not second


# The mixture


class _Mixture:
    """The stages of one recipe over its sources; `facts` fills as they are made."""

    def __init__(
        self, recipe: Recipe, corpora: dict[str, _Corpus], probe: frozenset[bytes], tokens: _Tokens, limit: int
    ) -> None:
        self.recipe, self.corpora, self.tokens, self.limit = recipe, corpora, tokens, limit
        self.left_out = {name: corpus.held_out(probe) for name, corpus in corpora.items()}
        self.facts = {
            name: SourceUse(len(corpus.rows), sum(self.left_out[name]), 0, 0, 0) for name, corpus in corpora.items()
        }

    def stage(self, use: Use, positions: int, rows: int | None) -> datasets.Dataset:
        """The examples of one stage, in training order."""
        sources = [source for source in self.recipe.sources if source.use == use and source.weight > 0]
        if not sources:
            raise RecipeError(f"the weights of the {use} data sources sum to 0: give at least one of them a weight")
        total = math.fsum(source.weight for source in sources)
        drawn = _draws([source.weight for source in sources], positions, f"{self.recipe.seed}/{use}")
        streams = [
            _Stream(self, source, None if rows is None else max(1, round(rows * source.weight / total)))
            for source in sources
        ]
        order = [(choice, streams[choice].next()) for choice in drawn]
        for stream in streams:
            self.facts[stream.corpus.source.name] = stream.facts()
        return _dataset([(streams[choice].corpus, row) for choice, row in order], self.tokens)


class _Stream:
    """The rows of one source in the order in which a run sees them, without end. `pool` has those seen, once each."""

    def __init__(self, mixture: _Mixture, source: Source, rows: int | None) -> None:
        self.corpus = mixture.corpora[source.name]
        self.left_out = mixture.left_out[source.name]
        self.mixture, self.rows = mixture, rows
        self.pool: list[int] = []
        self.too_long: list[int] = []  # tokens of each
        self.examples = 0
        self.order = self._order()

    def next(self) -> int:
        """The row of the next example."""
        self.examples += 1
        return next(self.order)

    def facts(self) -> SourceUse:
        """What was used so far."""
        read, held_out = len(self.corpus.rows), sum(self.left_out)
        return SourceUse(read, held_out, len(self.too_long), len(self.pool), self.examples)

    def _order(self) -> Iterator[int]:
        seed = f"{self.mixture.recipe.seed}/{self.corpus.source.name}"
        candidates = [index for index, left_out in enumerate(self.left_out) if not left_out]
        for row in _shuffled(candidates, f"{seed}/0"):
            if self.rows is not None and len(self.pool) == self.rows:
                break
            if (length := self.mixture.tokens.length(self.corpus, row)) > self.mixture.limit:
                self.too_long.append(length)
                continue
            self.pool.append(row)
            yield row
        if not self.pool:
            raise RecipeError(self._nothing_left())
        for epoch in itertools.count(1):
            yield from _shuffled(self.pool, f"{seed}/{epoch}")

    def _nothing_left(self) -> str:
        counts = f"{len(self.corpus.rows):,} rows, {sum(self.left_out):,} of them held out for the probe"
        if not self.too_long:
            return f"data source {self.corpus.source.name!r} has nothing left to train on ({counts}): add rows"
        return (
            f"every row of data source {self.corpus.source.name!r} that may be trained on is longer than "
            f"{self.mixture.limit:,} tokens ({counts}, {len(self.too_long):,} too long, the shortest of those has "
            f"{min(self.too_long):,}): raise max_length, or give the source weight 0"
        )


def _draws(weights: Sequence[float], positions: int, seed: str) -> Iterator[int]:
    """For each position the index of a weight, with its probability; weight 0 is never drawn."""
    cumulated = list(itertools.accumulate(weights))
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    uniform = random.Random(seed).random
    for _ in range(positions):
        yield min(bisect(cumulated, uniform() * cumulated[-1]), last)


def _shuffled(items: Sequence[int], seed: str) -> list[int]:
    uniform = random.Random(seed).random
    places = [uniform() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=places.__getitem__)]


def _dataset(order: Sequence[tuple[_Corpus, int]], tokens: _Tokens) -> datasets.Dataset:
    """Each distinct row stored once, and the order as indices into them."""
    places: dict[tuple[str, int], int] = {}
    columns: dict[str, list[list[int]]] = {}
    indices: list[int] = []
    for corpus, row in order:
        at = (corpus.source.name, row)
        if at not in places:
            places[at] = len(places)
            for name, ids in tokens.columns(corpus, row).items():
                columns.setdefault(name, []).append(ids)
        indices.append(places[at])
    features = datasets.Features({name: datasets.Sequence(datasets.Value("int32")) for name in columns})
    return datasets.Dataset.from_dict(columns, features=features).select(indices)


# Tokens of rows

_known: WeakKeyDictionary[Any, dict[tuple[str, str, str, int], tuple[Ids, ...]]] = WeakKeyDictionary()


class _Tokens:
    """The tokens of rows, each made once. What a tokenizer has made in this process lives as long as it does."""

    def __init__(self, chat: Chat) -> None:
        self.chat, self.known = chat, _known.setdefault(chat.tokenizer, {})

    def length(self, corpus: _Corpus, index: int) -> int:
        """Tokens of a row; of a pair, of its longer side."""
        return max(ids.length for ids in self._row(corpus, index))

    def example(self, corpus: _Corpus, index: int) -> Ids:
        """The tokens of a chat."""
        (ids,) = self._row(corpus, index)
        return ids

    def columns(self, corpus: _Corpus, index: int) -> dict[str, list[int]]:
        """A row as the trainers take it."""
        sides = self._row(corpus, index)
        if len(sides) == 1:
            input_ids, labels = sides[0].with_labels()
            return {"input_ids": input_ids, "labels": labels}
        chosen, rejected = sides
        return {
            "prompt_ids": list(chosen.prompt),
            "chosen_ids": list(chosen.answer),
            "rejected_ids": list(rejected.answer),
        }

    def _row(self, corpus: _Corpus, index: int) -> tuple[Ids, ...]:
        at = (self.chat.template, corpus.digest, corpus.source.use, index)
        if at not in self.known:
            row = corpus.rows[index]
            answers = (row.chosen, row.rejected) if isinstance(row, Pair) else (row.answer,)
            place = f"data source {corpus.source.name!r}, row {index + 1}"
            self.known[at] = tuple(self.chat.ids(row.prompt, answer, place) for answer in answers)
        return self.known[at]
