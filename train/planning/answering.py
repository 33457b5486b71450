"""The two widest moments of answering, on fake tensors: reading the prompts, and writing the last new token.

Used by `train.planning.simulate`. The calls are those of objectives.generate: a cache that grows by concatenation, a
mask for prompts of unequal length, logits of the last position alone, evaluation mode, no autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from train.planning.fakes import Tracker
from train.planning.simulated import Shape


def answer(model: Any, shape: Shape, tracker: Tracker) -> None:
    """Fill `tracker.peaks` with the phases "reading" and "writing" of a PeftModel of fake tensors."""
    model.eval()
    rows, length, total = shape.micro_batch_size, shape.length, shape.length + shape.new_tokens
    with torch.no_grad():
        tracker.forget()
        tracker.enter("reading", "workspace")
        cache = DynamicCache(config=model.config)
        _pass(model, cache, torch.zeros(rows, length, dtype=torch.long), length)
        tracker.enter("between")
        for layer in cache.layers:
            heads, size, dtype = layer.keys.shape[1], layer.keys.shape[3], layer.keys.dtype
            layer.keys, layer.values = (torch.empty(rows, heads, total - 1, size, dtype=dtype) for _ in range(2))
        tracker.enter("writing", "workspace")
        _pass(model, cache, torch.zeros(rows, 1, dtype=torch.long), total)
    del tracker.peaks["between"]


def _pass(model: Any, cache: DynamicCache, ids: torch.Tensor, total: int) -> torch.Tensor:
    """One pass over `ids`, with a mask of `total` tokens; returns the next token of each row."""
    mask = torch.ones(len(ids), total, dtype=torch.long)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    given = {"position_ids": positions, "logits_to_keep": 1}
    logits = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given).logits
    tokens: torch.Tensor = logits[:, -1].argmax(-1)
    return tokens
