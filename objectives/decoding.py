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
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

Tokens = list[int]
Ended = Callable[[int, Tokens], bool]  # row, what it has so far: whether that is the end of it

BLOCK = 64  # positions by which a cache grows
READ_TOKENS = 4096  # of prompts that are read at once, padding included
EVERY = 16  # steps
SHARE = 8  # rows leave and come once they are an eighth of the batch: each time, the cache is copied


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values, shape (rows, heads, positions, size), in buffers that grow by BLOCK positions at a time.

    Also for layers with a sliding window, whose mask keeps them from looking further back.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = _room(key_states, 0), _room(value_states, 0)
        before = self.get_seq_length()
        now = before + key_states.shape[2]
        if now > self._buffers[0].shape[2]:
            grown = _room(key_states, now), _room(value_states, now)
            for old, new in zip(self._buffers, grown, strict=True):
                new[:, :, :before] = old[:, :, :before]
            self._buffers = grown
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:now] = states
        self.keys, self.values = (buffer[:, :, :now] for buffer in self._buffers)
        return self.keys, self.values

    def regroup(self, rows: torch.Tensor | None, fresh: _Layer | None, width: int) -> None:
        """Keep these rows (None: all), and add those of `fresh`: the newest `width` positions of each."""
        keys = _regrouped(self.keys, rows, fresh and fresh.keys, width)
        self._buffers = keys, _regrouped(self.values, rows, fresh and fresh.values, width)
        self.keys, self.values = (buffer[:, :, :width] for buffer in self._buffers)


def _room(states: torch.Tensor, positions: int) -> torch.Tensor:
    """A buffer for that many positions and some more."""
    rows, heads, _, size = states.shape
    return states.new_empty(rows, heads, -(-positions // BLOCK) * BLOCK, size)


def _regrouped(old: torch.Tensor, rows: torch.Tensor | None, fresh: torch.Tensor | None, width: int) -> torch.Tensor:
    """The newest `width` positions of each, aligned at the right. Zeros at the left: even under a mask, what is there
    must be finite."""
    kept = old if rows is None else old.index_select(0, rows)
    parts = [kept[:, :, -width:]] + ([] if fresh is None else [fresh])
    made = old.new_empty(sum(map(len, parts)), old.shape[1], -(-(width + 1) // BLOCK) * BLOCK, old.shape[3])
    top = 0
    for part in parts:
        space = width - part.shape[2]
        made[top : top + len(part), :, :space] = 0
        made[top : top + len(part), :, space:width] = part
        top += len(part)
    return made


def joinable(cache: DynamicCache) -> bool:
    """Whether rows can join a batch: all that the model remembers is keys and values, one position a token."""
    return {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


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
        self._cache = DynamicCache(config=model.config)
        self.joinable = joinable(self._cache)
        if self.joinable:
            self._cache.layers = [_Layer() for _ in self._cache.layers]
        self._optional = _optional_arguments(model)

    def step(self) -> torch.Tensor:
        """The next token of every row, shape (rows,). The first call reads the prompts, later ones the newest token."""
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        given = {"position_ids": positions, "logits_to_keep": 1}
        logits = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: given[name] for name in self._optional},
        ).logits
        tokens: torch.Tensor = logits[:, -1].argmax(-1)
        self._ids = tokens[:, None]
        self._lengths = [length + 1 for length in self._lengths]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        return tokens

    def regroup(self, rows: Sequence[int], fresh: Decoding | None = None) -> None:
        """Go on with these rows alone, numbered as they are now, and behind them those of `fresh`.

        Both have made a step. `fresh` must not be used afterwards.
        """
        assert fresh is None or self.joinable, "rows cannot join this cache"
        everyone = list(rows) == list(range(len(self._lengths)))
        index = torch.tensor(rows, device=self._ids.device, dtype=torch.long)
        self._lengths = [self._lengths[row] for row in rows] + (fresh._lengths if fresh else [])
        self._ids = torch.cat([self._ids[index], *([fresh._ids] if fresh else [])])
        if not self.joinable:
            self._mask = self._mask[index]
            self._cache.reorder_cache(index)  # unlike batch_select_indices, every kind of cache layer has it
            return
        width = max(self._lengths)
        self._mask = self._masked(width)
        theirs = fresh._cache.layers if fresh else [None] * len(self._cache.layers)
        for mine, other in zip(self._cache.layers, theirs, strict=True):
            if mine.is_initialized:  # not so a layer that uses the keys of another one
                mine.regroup(None if everyone else index, other, width - 1)  # the newest token is not in the cache yet

    def _masked(self, width: int) -> torch.Tensor:
        lengths = torch.tensor(self._lengths, device=self._model.device)
        return (torch.arange(width, device=lengths.device) >= width - lengths[:, None]).long()


def _optional_arguments(model: Any) -> list[str]:
    """Which of the arguments that not every architecture takes this one takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    return [name for name in ("position_ids", "logits_to_keep") if name in accepted]


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
        if come or len(self._places) - len(alive) >= max(1, len(self._places) // SHARE):
            self._keep(alive)
        while come and self._waiting and free:
            free -= self._read(free)
        if not come and self._batch is not None:
            self._places = self._taken(self._batch, self._places)

    def _keep(self, places: list[int]) -> None:
        if not places:
            self._batch = None
        elif len(places) < len(self._places):
            assert self._batch is not None
            self._batch.regroup(places)
        self._places = [self._places[place] for place in places]

    def _read(self, free: int) -> int:
        """Read some prompts that wait, at most `free`, into the batch; returns how many."""
        group = [self._waiting.popleft()]
        most = min(free, READ_TOKENS // len(self._rows[group[0]])) if self._joinable else free
        while self._waiting and len(group) < most:
            group.append(self._waiting.popleft())
        fresh = Decoding(self._model, [self._rows[row] for row in group])
        places = self._taken(fresh, group)
        if self._batch is None:
            self._batch, self._places = fresh, places
        else:
            self._batch.regroup(range(len(self._places)), fresh)
            self._places += places
        return len(group)

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
