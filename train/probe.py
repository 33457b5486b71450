"""The probe: bits per byte of held-out responses, comparable between recipes and between tokenizers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from train.data.splits import IGNORED, ProbeRow
from train.model import LoadedBase

_TOKENS = 4096  # of one forward pass, padding included
_LOGITS = 2**26  # of one forward pass: 256 MiB in float32


@torch.no_grad()
def bits_per_byte(loaded: LoadedBase, model: Any, rows: Sequence[ProbeRow]) -> float:
    """Bits that `model` needs for each UTF-8 byte of the rows' responses.

    The sum of the negative log-likelihoods (natural) of all labelled tokens, over ln 2 and the responses' bytes.
    `model` is the base or a PeftModel on it. Draws no random number and leaves the model in the mode it was in.
    """
    keeps = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters
    vocabulary = loaded.model.get_output_embeddings().weight.shape[0]
    was_training = model.training
    model.eval()
    try:
        nats = math.fsum(_nats(loaded, model, batch, keeps) for batch in _batches(rows, vocabulary))
    finally:
        model.train(was_training)
    return nats / math.log(2) / sum(row.response_bytes for row in rows)


def _batches(rows: Sequence[ProbeRow], vocabulary: int) -> Iterator[list[ProbeRow]]:
    """The rows by length, so many at a time as _TOKENS and _LOGITS allow, at least one."""
    limit = min(_TOKENS, _LOGITS // vocabulary)
    batch: list[ProbeRow] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) > limit:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _nats(loaded: LoadedBase, model: Any, rows: list[ProbeRow], keeps: bool) -> float:
    width = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), width), loaded.tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        ids[i, :length], labels[i, :length] = torch.tensor(row.input_ids), torch.tensor(row.labels)
        mask[i, :length] = 1
    # Logits are wanted from just before the first response on; with a large vocabulary they are the largest tensor.
    first = min(next(i for i, label in enumerate(row.labels) if label != IGNORED) for row in rows) - 1
    options = {"logits_to_keep": width - first} if keeps else {}
    with loaded.autocast():
        logits = model(
            input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device), use_cache=False, **options
        ).logits
    predicted = logits[:, first - width : -1].float()
    wanted = labels[:, first + 1 :].to(loaded.device)
    return float(torch.nn.functional.cross_entropy(predicted.flatten(0, 1), wanted.flatten(), reduction="sum"))
