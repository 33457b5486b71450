"""NEFTune (Jain et al., arXiv 2310.05914): uniform noise on the embeddings while training, against overfitting to the
wording of instruction data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def noisy_embeddings(model: Any, alpha: float, lengths: Sequence[int]) -> Iterator[None]:
    """Within the block, add noise of at most alpha / sqrt(L x d) to each embedding of `model` while it trains.

    d is the embeddings' size and L the length of the document that the token belongs to, not that of a packed row or of
    the padding: `lengths` are those of the micro-batch's rows or, where one row is packed, of the documents in it, one
    after the other. Draws come from torch's global random state of the device. Nothing happens with alpha 0.
    """
    embeddings = model.get_input_embeddings()

    def add_noise(module: torch.nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        noise = torch.empty_like(embedded).uniform_(-1.0, 1.0)
        return embedded + noise * scales(alpha, lengths, embedded)

    handle = embeddings.register_forward_hook(add_noise) if alpha else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def scales(alpha: float, lengths: Sequence[int], embedded: torch.Tensor) -> torch.Tensor:
    """The largest noise at each token of `embedded`, (rows, tokens, d): as (rows, 1, 1) or, packed, (1, tokens, 1)."""
    rows, tokens, size = embedded.shape
    by_document = [alpha / math.sqrt(length * size) for length in lengths]
    if rows == len(lengths):
        return embedded.new_tensor(by_document).view(rows, 1, 1)
    assert rows == 1, (rows, lengths)
    assert sum(lengths) == tokens, (tokens, lengths)
    repeats = torch.tensor(lengths, device=embedded.device)
    return embedded.new_tensor(by_document).repeat_interleave(repeats, output_size=tokens).view(1, tokens, 1)
