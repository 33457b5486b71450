"""Keys and values of rows that come and go, aligned at their newest positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

BLOCK = 64  # positions by which a cache grows


def joinable(cache: DynamicCache) -> bool:
    """Whether rows can join a batch: all that the model remembers is keys and values, one position a token."""
    return {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


class RowsLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values, shape (rows, heads, positions, size): a window into buffers that have room for more of them.

    Also for layers with a sliding window, whose mask keeps them from looking further back. What a row has left of its
    own beginning is finite, as it must be even under a mask.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add positions to every row; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = _room(key_states, len(key_states), 0), _room(value_states, len(key_states), 0)
            self._rows, self._start, self._end = len(key_states), 0, 0
        end = self._end + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._move(self._rows, self._end - self._start, key_states.shape[2])
            end = self._end + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._end : end] = states
        self._end = end
        self._show()
        return self.keys, self.values

    def keep(self, count: int, holes: torch.Tensor, fillers: torch.Tensor, width: int) -> None:
        """Keep `count` rows of at most `width` positions: `fillers` move to `holes`, and the end is cut off."""
        self._start = self._end - width
        if len(holes):
            for buffer in self._buffers:
                buffer[holes, :, self._start : self._end] = buffer[fillers, :, self._start : self._end]
        self._rows = count
        self._show()

    def join(self, fresh: Sequence[RowsLayer], width: int) -> None:
        """Add rows that have been read elsewhere, behind these; no row has more than `width` positions."""
        total = self._rows + sum(layer._rows for layer in fresh)
        if total > len(self._buffers[0]) or width > self._end:
            self._move(total, width, 1)
        top = self._rows
        for layer in fresh:
            below = top + layer._rows
            for buffer, states in zip(self._buffers, (layer.keys, layer.values), strict=True):
                space = self._end - states.shape[2]
                buffer[top:below, :, :space] = 0
                buffer[top:below, :, space : self._end] = states
            top = below
        self._rows, self._start = total, self._end - width
        self._show()

    def _move(self, rows: int, width: int, more: int) -> None:
        """Into new buffers for `rows` rows, the newest positions ending at `width`, with room for `more` of them."""
        now, kept = self._end - self._start, self._rows
        moved = []
        for old in self._buffers:
            new = _room(old, rows, width + more)
            new[:kept, :, : width - now] = 0
            new[:kept, :, width - now : width] = old[:kept, :, self._start : self._end]
            moved.append(new)
        self._buffers = moved[0], moved[1]
        self._start, self._end = width - now, width

    def _show(self) -> None:
        self.keys, self.values = (buffer[: self._rows, :, self._start : self._end] for buffer in self._buffers)


def _room(states: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    """A buffer for so many rows, and that many positions and some more."""
    return states.new_empty(rows, states.shape[1], -(-positions // BLOCK) * BLOCK, states.shape[3])
