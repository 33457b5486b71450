"""What transformers' own `generate` answers, and whether ours differs from it on a few prompts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig

from objectives.decoding import Tokens, decode
from objectives.inference import newest_only, unpacked

TRIED = 8  # new tokens of each prompt
LEAVES = 3  # after how many of them the first row leaves, so that the last one joins
ROUNDING = 8  # steps of the model's number format, of its largest logit: a tie, and no difference

_tried: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()


def plainly(
    model: Any, rows: Sequence[Tokens], ends: Collection[int], new_tokens: int
) -> tuple[list[Tokens], list[torch.Tensor]]:
    """`model.generate` on one left-padded batch: continuations up to and with their end tokens, and for each step the
    logits of all rows."""
    width = max(map(len, rows))
    config = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # else that of the model's own generation config
        no_repeat_ngram_size=0,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    out = model.generate(
        input_ids=torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device),
        attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device),
        generation_config=config,
    )
    return [_cut(row, ends) for row in out.sequences[:, width:].tolist()], list(out.logits)


def _cut(row: Tokens, ends: Collection[int]) -> Tokens:
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)


@contextmanager
def prepared(model: Any, rows: Sequence[Tokens], ends: Collection[int], new_tokens: int) -> Iterator[str | None]:
    """The model made ready to decode; yields how our answers to a few prompts then differ from those that `generate`
    gave before, token for token, or None where they do not.

    They are at most TRIED tokens long, and `new_tokens`.
    Two of the rows share a batch, one leaves and the next joins. A tie within the rounding of the model's numbers is no
    difference. Tried once for each base model in memory.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    new_tokens = min(TRIED, new_tokens)
    plain = plainly(model, rows, ends, new_tokens) if base not in _tried else None
    with unpacked(model), newest_only(model):
        if plain is not None:
            made = decode(model, rows, ends, new_tokens, 2, lambda row, tokens: row == 0 and len(tokens) == LEAVES)
            _tried[base] = first_difference(made, *plain, rows, torch.finfo(model.dtype).eps)
        yield _tried[base]


def first_difference(
    made: Sequence[Tokens],
    plain: Sequence[Tokens],
    logits: Sequence[torch.Tensor],
    rows: Sequence[Tokens],
    step_size: float,
) -> str | None:
    """Where `made` first differs from what `plainly` gave for `rows`, but for ties within the rounding of numbers with
    that `step_size` (eps); None where it does not. As far as both go: `made` may have been ended early."""
    for row, (mine, theirs) in enumerate(zip(made, plain, strict=True)):
        for step, (token, expected) in enumerate(zip(mine, theirs, strict=False)):
            scores = logits[step][row].float()
            if token == expected:
                continue
            if (scores[expected] - scores[token]).abs() > ROUNDING * step_size * scores.abs().max():
                return f"token {step + 1} after a prompt of {len(rows[row])} tokens is {token} and not {expected}"
            break  # after a tie, another text
    return None
