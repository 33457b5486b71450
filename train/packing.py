"""The examples of one optimizer step as micro-batches: packed into rows without padding, or padded side by side.

Packing does not change what is learned. A step consumes the same examples either way, each example attends to itself
alone, and the loss is the mean over the step's learned tokens; only the sums are added up in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from train.chat import IGNORED

__all__ = ["ATTENTION", "IGNORED", "MicroBatch", "StepBatch", "attention_of", "fill", "step_batch"]

ATTENTION = "nightshift_documents"  # the name under which transformers knows `attend_documents`

Row = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class MicroBatch:
    """What passes through the model at once.

    `inputs` are the model's, each tensor of shape (rows, tokens); `labels` has the same shape, and -100 where nothing
    is learned. `lengths` are those of the documents: of a packed row's, one after the other; else of each row.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class StepBatch:
    """All micro-batches of one optimizer step. `learned` counts the labels that are not -100, `tokens` those that are
    not padding."""

    micro_batches: tuple[MicroBatch, ...]
    learned: int
    tokens: int


def step_batch(rows: Sequence[Row], *, packing: bool, micro_batch_size: int, max_length: int, pad: int) -> StepBatch:
    """The micro-batches of a step. Packed, each has at most micro_batch_size * max_length tokens (more where a single
    row is longer); else micro_batch_size rows."""
    if packing:
        bins = fill(tuple(len(row["input_ids"]) for row in rows), micro_batch_size * max_length)
        batches = [_packed([rows[index] for index in chosen]) for chosen in bins]
    else:
        starts = range(0, len(rows), micro_batch_size)
        batches = [_padded(rows[start : start + micro_batch_size], pad) for start in starts]
    learned = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    return StepBatch(tuple(batches), learned, sum(len(row["input_ids"]) for row in rows))


def fill(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: first-fit decreasing, at most 11/9 of the fewest bins + 1.

    A length above the capacity has a bin to itself. Bins and their indices are in ascending order.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = next((b for b, left in enumerate(room) if left >= lengths[index]), None)
        if at is None:
            at = len(bins)
            bins.append([])
            room.append(capacity)
        bins[at].append(index)
        room[at] -= lengths[index]
    return sorted(sorted(chosen) for chosen in bins)


def _packed(rows: Sequence[Row]) -> MicroBatch:
    lengths = tuple(len(row["input_ids"]) for row in rows)
    inputs = {
        "input_ids": _tensor([token for row in rows for token in row["input_ids"]]),
        "position_ids": _tensor([position for length in lengths for position in range(length)]),
        "document_lengths": lengths,
    }
    # A document's first token has no label of its own: it would be predicted from the end of the one before it.
    labels = _tensor([label for row in rows for label in (IGNORED, *row["labels"][1:])])
    return MicroBatch(inputs, labels, lengths)


def _padded(rows: Sequence[Row], pad: int) -> MicroBatch:
    lengths = tuple(len(row["input_ids"]) for row in rows)
    width = max(lengths)

    def table(column: str, filler: int) -> torch.Tensor:
        return torch.tensor([[*row[column], *[filler] * (width - len(row[column]))] for row in rows])

    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return MicroBatch({"input_ids": table("input_ids", pad), "attention_mask": mask}, table("labels", IGNORED), lengths)


def _tensor(values: list[int]) -> torch.Tensor:
    return torch.tensor([values])


# Attention inside a packed row


def attend_documents(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    document_lengths: tuple[int, ...],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each document in a packed row to itself alone, without a mask and its squared length.

    `query` has the shape (1, heads, tokens, head_dim), `key` and `value` (1, kv_heads, tokens, head_dim); returns
    (1, tokens, heads, head_dim). `document_lengths` add up to the tokens.
    """
    assert attention_mask is None
    split = [torch.split(states, list(document_lengths), dim=2) for states in (query, key, value)]
    attended = []
    for q, k, v in zip(*split, strict=True):
        window = _window(q, sliding_window)
        attended.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, window, dropout, is_causal=window is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        )
    return torch.cat([states.transpose(1, 2) for states in attended], dim=1), None


def _window(query: torch.Tensor, size: int | None) -> torch.Tensor | None:
    """A mask only where a document is longer than the model's sliding window."""
    length = query.shape[2]
    if size is None or length <= size:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=query.device)
    return ones.tril().triu(1 - size)


@contextmanager
def attention_of(model: Any, implementation: str) -> Iterator[None]:
    """Forward and backward passes in the block use this implementation (checkpointing computes forward passes again in
    the backward one)."""
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before


AttentionInterface.register(ATTENTION, attend_documents)
AttentionMaskInterface.register(ATTENTION, flash_attention_mask)  # which makes none where no row is padded
