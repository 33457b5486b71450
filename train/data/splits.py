"""Rows -> tokenized splits in training order, and the held-out probe. A pure function of recipe and files.

The order is made here, once, so that the trainers have no epochs: position i of a stage draws a source by weight, then
the next row of that source's own shuffled order, which is shuffled anew each time it is through. A longer horizon so
begins with the examples of a shorter one, and a larger `rows` with those of a smaller one. Shuffles use
`random.Random(text).random`, whose sequence Python promises to keep, and nothing that differs between processes.

Sources are read and filtered in `sources`, rows tokenized when they are first drawn, in `tokens`; both keep
what they made, so that a second trial on the same data costs next to nothing, and neither does a second process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from train.chat import IGNORED, Chat, template_of
from train.data.sources import Corpus, corpus
from train.data.tokens import Sides, Tokens
from train.recipe import Recipe, RecipeError, Source

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
    """How a run uses one source, of whose `rows_read` the filters `removed` some, counted by reason.

    `rows_held_out` is the probe and every other row with a probe row's text. `rows_too_long` counts those that this run
    came to and left out; rows that it never needed were not looked at.
    """

    rows_read: int
    removed: dict[str, int]
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that is trained on and measured, in its order: the same on every run of a recipe."""
        probe = [[row.input_ids, row.labels, row.response_bytes] for row in self.probe]
        parts = [self.sft._fingerprint, self.dpo._fingerprint if self.dpo is not None else None, probe]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def splits(recipe: Recipe, tokenizer: Any, context: int | None = None) -> Splits:
    """Read, check, hold out, tokenize and order the data of `recipe`.

    `context` is the largest number of tokens that the model takes (None: what the tokenizer says). A row that is longer
    than that or than recipe.max_length is left out and counted, never cut. The probe depends on the files, the
    template and recipe.probe alone. Raises RecipeError for data, templates or mixtures that cannot be trained on.
    """
    tokens = Tokens(Chat(tokenizer, template_of(recipe, tokenizer)))
    limit = context if context is not None else int(tokenizer.model_max_length)
    corpora = {source.name: corpus(source) for source in recipe.sources}
    probe, held_out = _probe(recipe, corpora, tokens, min(limit, PROBE_TOKENS))
    mixture = _Mixture(recipe, corpora, held_out, tokens, min(limit, recipe.max_length))
    sft = mixture.stage("sft", recipe.sft_steps * recipe.batch_size, recipe.rows)
    dpo = mixture.stage("preference", recipe.dpo_steps * recipe.batch_size, None) if recipe.dpo_steps else None
    tokens.keep()
    return Splits(sft, dpo, probe, mixture.facts)


# The probe


def _probe(
    recipe: Recipe, corpora: dict[str, Corpus], tokens: Tokens, limit: int
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


def _candidates(corpus: Corpus, tokens: Tokens, limit: int, taken: set[bytes]) -> Iterator[tuple[bytes, ProbeRow]]:
    """Every second one of the rows that are short enough, so that as many are left to train on; copies once."""
    first_with = {keys[0]: index for index, keys in reversed(list(enumerate(corpus.keys)))}
    second = False
    for key, index in sorted(first_with.items()):
        if key in taken or (ids := tokens.example(corpus, index)).length > limit:
            continue
        if second:
            yield key, ProbeRow(*ids.with_labels(), response_bytes=corpus.answer_bytes[index])
        second = not second


# The mixture


class _Mixture:
    """The stages of one recipe over its sources; `facts` fills as they are made."""

    def __init__(
        self, recipe: Recipe, corpora: dict[str, Corpus], probe: frozenset[bytes], tokens: Tokens, limit: int
    ) -> None:
        self.recipe, self.corpora, self.tokens, self.limit = recipe, corpora, tokens, limit
        self.held_out = {
            name: [any(key in probe for key in keys) for keys in corpus.keys] for name, corpus in corpora.items()
        }
        self.facts = {name: self.use(name, 0, 0, 0) for name in corpora}

    def use(self, name: str, too_long: int, used: int, examples: int) -> SourceUse:
        """How much of a source was used."""
        facts = self.corpora[name].facts
        return SourceUse(facts.rows_read, facts.removed, sum(self.held_out[name]), too_long, used, examples)

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
        self.held_out = mixture.held_out[source.name]
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
        return self.mixture.use(self.corpus.source.name, len(self.too_long), len(self.pool), self.examples)

    def _order(self) -> Iterator[int]:
        seed = f"{self.mixture.recipe.seed}/{self.corpus.source.name}"
        candidates = [index for index, held_out in enumerate(self.held_out) if not held_out]
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
        facts = self.corpus.facts
        gone = "".join(f", {count:,} left out by {reason}" for reason, count in facts.removed.items())
        counts = f"{facts.rows_read:,} rows{gone}, {sum(self.held_out):,} of them held out for the probe"
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


def _dataset(order: Sequence[tuple[Corpus, int]], tokens: Tokens) -> datasets.Dataset:
    """Each distinct row stored once, and the order as indices into them."""
    places: dict[tuple[str, int], int] = {}
    rows: list[Sides] = []
    indices: list[int] = []
    for origin, row in order:
        at = (origin.source.name, row)
        if at not in places:
            places[at] = len(places)
            rows.append(tokens.sides(origin, row))
        indices.append(places[at])
    columns = _examples(rows) if len(rows[0]) == 1 else _pairs(rows)
    digest = hashlib.sha256(json.dumps([sorted(columns), indices]).encode())
    for name in sorted(columns):
        digest.update(columns[name].values.buffers()[1])
        digest.update(columns[name].offsets.buffers()[1])
    table = datasets.table.InMemoryTable(pa.table(columns))
    made = datasets.Dataset(table, fingerprint=digest.hexdigest())  # given, or it would be hashed by pickling
    return made.select(indices, new_fingerprint=digest.hexdigest())


def _examples(rows: Sequence[Sides]) -> dict[str, pa.ListArray]:
    prompts, answers = [ids.prompt for (ids,) in rows], [ids.answer for (ids,) in rows]
    masks = [array("i", [IGNORED]) * len(prompt) for prompt in prompts]
    return {"input_ids": _lists(prompts, answers), "labels": _lists(masks, answers)}


def _pairs(rows: Sequence[Sides]) -> dict[str, pa.ListArray]:
    return {
        "prompt_ids": _lists([chosen.prompt for chosen, _ in rows]),
        "chosen_ids": _lists([chosen.answer for chosen, _ in rows]),
        "rejected_ids": _lists([rejected.answer for _, rejected in rows]),
    }


def _lists(*parts: Sequence[array[int]]) -> pa.ListArray:
    """A column of int32 lists: of each row, its parts one after the other."""
    rows = list(zip(*parts, strict=True))
    flat = np.frombuffer(b"".join(part.tobytes() for row in rows for part in row), dtype=np.int32)
    ends = np.cumsum([0, *(sum(map(len, row)) for row in rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))
