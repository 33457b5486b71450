"""Greedy decoding of rows that come and go: prompts are read in groups, and rows leave the batch as they end.

Any causal language model of transformers, also under PEFT and on 4-bit weights. It gives what
`model.generate(do_sample=False)` gives, token for token (in the last bits, logits depend on who shares the batch).
It is ours because the batch is kept full, because an answer may end early, and because its steps can be timed.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from objectives.cache import RowsLayer, joinable

Tokens = list[int]
Ended = Callable[[int, Tokens], bool]  # row, what it has so far: whether that is the end of it

READ_TOKENS = 4096  # of prompts that are read at once, padding included
READ_ENOUGH = 1024  # of them, so that shorter prompts are read by themselves, with less padding
SHORTER = 0.9  # of the longest prompt: what counts as shorter
EVERY = 16  # steps
SHARE = 8  # rows come once there is room for an eighth of the batch: each time, prompts are read for them
VOCABULARY_BLOCK = 128


class Decoding:
    """One batch in the middle of greedy decoding: its cache and, for each row, its length and newest token.

    Rows are aligned at their newest tokens; a row's mask is 0 where it has nothing.
    """

    def __init__(self, model: Any, rows: Sequence[Tokens]) -> None:
        width = max(map(len, rows))
        self._model = model
        self._lengths = list(map(len, rows))
        self._ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
        self._mask = self._masked(width)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache = DynamicCache(config=model.config)
        self._optional = _optional_arguments(model)
        self._plain = _plain_mask(model, self._cache, self._optional)
        self.joinable = joinable(self._cache)
        if self.joinable:
            self._cache.layers = [RowsLayer() for _ in self._cache.layers]

    def step(self) -> torch.Tensor:
        """The next token of every row, shape (rows,). The first call reads the prompts, later ones the newest token."""
        given = {"position_ids": self._positions, "logits_to_keep": 1}
        logits = self._model(
            input_ids=self._ids,
            attention_mask=self._seen(),
            past_key_values=self._cache,
            use_cache=True,
            **{name: given[name] for name in self._optional},
        ).logits
        tokens = greedy(logits[:, -1])
        self._ids = tokens[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._lengths = [length + 1 for length in self._lengths]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        return tokens

    def keep(self, rows: Collection[int]) -> list[int]:
        """Go on with these rows alone, numbered as they are now; returns their new order.

        Those of the end take the places of those that leave, so that a leaving row costs a copy of one other.
        """
        order = _compact(rows, len(self._lengths)) if self.joinable else sorted(rows)
        index = torch.tensor(order, device=self._ids.device, dtype=torch.long)
        self._lengths = [self._lengths[row] for row in order]
        self._ids, self._positions = self._ids[index], self._positions[index]
        if not self.joinable:
            self._mask = self._mask[index]
            self._cache.reorder_cache(index)  # unlike batch_select_indices, every kind of cache layer has it
            return order
        width = max(self._lengths)
        self._mask = self._mask[index, -width:]
        holes = (index != torch.arange(len(order), device=index.device)).nonzero()[:, 0]
        for layer in self._layers():
            layer.keep(len(order), holes, index[holes], width - 1)  # the newest token is not in the cache yet
        return order

    def join(self, fresh: Sequence[Decoding]) -> None:
        """Go on with the rows of `fresh`, too, behind these. All have made a step; `fresh` must not be used again."""
        assert self.joinable, "rows cannot join this cache"
        everyone = [self, *fresh]
        self._lengths = [length for one in everyone for length in one._lengths]
        self._ids = torch.cat([one._ids for one in everyone])
        self._positions = torch.cat([one._positions for one in everyone])
        width = max(self._lengths)
        self._mask = self._masked(width)
        for mine, *others in zip(*(one._layers() for one in everyone), strict=True):
            mine.join(others, width - 1)

    def _layers(self) -> list[RowsLayer]:
        """Those that hold something: not so a layer that uses the keys of another one."""
        return [layer for layer in self._cache.layers if layer.is_initialized]

    def _seen(self) -> torch.Tensor:
        """The mask to give: for one new token as attention takes it, or else transformers makes that in every step.

        Where no row has a gap, transformers leaves the mask out, which is faster.
        """
        if self._plain and self._ids.shape[1] == 1 < self._mask.shape[1] and len(set(self._lengths)) > 1:
            return self._mask[:, None, None].bool()
        return self._mask

    def _masked(self, width: int) -> torch.Tensor:
        lengths = torch.tensor(self._lengths, device=self._model.device)
        return (torch.arange(width, device=lengths.device) >= width - lengths[:, None]).long()


def _compact(rows: Collection[int], count: int) -> list[int]:
    """An order of `rows` (out of `count`) in which as many as possible stay where they are."""
    staying = set(rows)
    fillers = iter(sorted(row for row in staying if row >= len(staying)))
    return [place if place in staying else next(fillers) for place in range(len(staying))]


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """`logits.argmax(-1)` of shape (rows, vocabulary), in blocks: on the CPU that takes an eighth of the time."""
    rows, words = logits.shape
    if logits.is_cuda or words % VOCABULARY_BLOCK:
        return logits.argmax(-1)
    blocks = logits.reshape(rows, -1, VOCABULARY_BLOCK)
    best = blocks.amax(-1).argmax(-1)
    return best * VOCABULARY_BLOCK + blocks[torch.arange(rows), best].argmax(-1)


def _optional_arguments(model: Any) -> list[str]:
    """Which of the arguments that not every architecture takes this one takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    return [name for name in ("position_ids", "logits_to_keep") if name in accepted]


def _plain_mask(model: Any, cache: DynamicCache, optional: Collection[str]) -> bool:
    """Whether a new token sees all that its row has, in every layer, and the mask serves for nothing else (windows,
    positions, ALiBi), so that it may be given in the shape (rows, 1, 1, positions) that torch's attention takes."""
    config = model.config.get_text_config()
    layers = all(type(layer) is DynamicLayer for layer in cache.layers)
    positions = "position_ids" in optional and not getattr(config, "alibi", False)
    return layers and positions and config._attn_implementation == "sdpa"


def decode(
    model: Any,
    rows: Sequence[Tokens],
    ends: Collection[int],
    max_new_tokens: int,
    size: int | None = None,
    ended: Ended = lambda *_: False,
    before_steps: Callable[[], None] = lambda: None,
) -> list[Tokens]:
    """Greedy continuations of the rows, at most `size` at a time (None: all), each with the end token that ended it.

    Waiting rows take the places of those that ended, in their order: who shares a batch is a function of the rows,
    their continuations and `size` alone. `ended` is asked after every token that does not end a row by itself,
    `before_steps` is called before every EVERY steps.
    """
    decoder = _Decoder(model, rows, ends, max_new_tokens, size or len(rows), ended)
    while decoder.busy:
        before_steps()
        for _ in range(EVERY):
            if decoder.busy:
                decoder.step()
    return decoder.answers


class _Decoder:
    """Rows that wait, a batch, and the continuations so far."""

    def __init__(
        self, model: Any, rows: Sequence[Tokens], ends: Collection[int], limit: int, size: int, ended: Ended
    ) -> None:
        self._model, self._rows, self._ends, self._limit, self._size = model, rows, ends, limit, size
        self._ended = ended
        self._joinable = joinable(DynamicCache(config=model.config))
        self._waiting = deque(range(len(rows)))
        self._batch: Decoding | None = None
        self._places: list[int | None] = []  # the row in each place of the batch; None where it has ended
        self.answers: list[Tokens] = [[] for _ in rows]

    @property
    def busy(self) -> bool:
        """Whether there is a row that has not ended."""
        return bool(self._waiting) or any(row is not None for row in self._places)

    def step(self) -> None:
        """Let rows leave and come, and write one token for each row of the batch."""
        alive = [place for place, row in enumerate(self._places) if row is not None]
        free = self._size - len(alive)
        come = bool(self._waiting) and (not alive or (self._joinable and free >= max(1, self._size // SHARE)))
        if come or self._may_leave(len(self._places) - len(alive)):
            self._keep(alive)
        if come:
            self._read(free)
        elif self._batch is not None:
            self._places = self._taken(self._batch, self._places)

    def _may_leave(self, dead: int) -> bool:
        """At once, or where that copies the whole cache, when they are some."""
        return dead >= (1 if self._joinable else max(1, len(self._places) // SHARE))

    def _keep(self, places: list[int]) -> None:
        if not places:
            self._batch, self._places = None, []
        elif len(places) < len(self._places):
            assert self._batch is not None
            self._places = [self._places[place] for place in self._batch.keep(places)]

    def _read(self, free: int) -> None:
        """Read prompts that wait into the batch, at most `free`, those of a like length at once."""
        batches = [self._batch] if self._batch is not None else []
        while self._waiting and free:
            group = self._group(free)
            free -= len(group)
            batches.append(Decoding(self._model, [self._rows[row] for row in group]))
            self._places += self._taken(batches[-1], group)
        self._batch = batches[0]
        if len(batches) > 1:
            self._batch.join(batches[1:])

    def _group(self, free: int) -> list[int]:
        """The rows to read next."""
        group = [self._waiting.popleft()]
        longest = len(self._rows[group[0]])
        while self._waiting and len(group) < free:
            tokens = longest * (len(group) + 1)
            shorter = tokens > READ_ENOUGH and len(self._rows[self._waiting[0]]) < SHORTER * longest
            if self._joinable and (tokens > READ_TOKENS or shorter):
                break
            group.append(self._waiting.popleft())
        return group

    def _taken(self, batch: Decoding, rows: Sequence[int | None]) -> list[int | None]:
        """One token more for each row of `batch`; returns the rows that go on."""
        staying: list[int | None] = []
        for row, token in zip(rows, batch.step().tolist(), strict=True):
            if row is None or self._is_over(row, token):
                staying.append(None)
            else:
                staying.append(row)
        return staying

    def _is_over(self, row: int, token: int) -> bool:
        tokens = self.answers[row]
        tokens.append(token)
        return token in self._ends or len(tokens) >= self._limit or self._ended(row, tokens)
