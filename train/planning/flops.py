"""How long a training step takes on a card: an estimate from operations, bytes and dispatches. Pure, no torch.

A step is bound by the card's matrix units, its memory, or the processor that dispatches kernels to it. Efficiencies
(the shares of a data sheet's rates that are reached) are those seen in published runs; see docs/memory.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from train.base import BaseFacts
from train.recipe import Frozen, Recipe

MATRIX_EFFICIENCY, ATTENTION_EFFICIENCY, MEMORY_EFFICIENCY = 0.85, 0.5, 0.8
BACKWARD_BYTES = 1.25  # element-wise bytes of a backward pass, to those of a forward pass
OPERATIONS, OPERATIONS_A_MODULE = 500, 205  # kernels of a checkpointed layer, in all its passes
DPO_TIMES = 3.0  # until a run has measured its own
WARM_UP_STEPS = 3  # of a run: kernels are chosen and memory is reserved


class Speed(NamedTuple):
    """What a card can do at most: bfloat16 operations a second (dense, float32 sums), bytes a second; and the seconds
    that dispatching a kernel takes the processor."""

    name: str
    flops: float
    bandwidth: float
    dispatch_s: float = 6e-6


SPEEDS = (  # of NVIDIA's data sheets; the end of nvidia-smi's name for the card
    Speed("RTX 4070 Ti", 80e12, 504e9),
    Speed("RTX 4090", 165e12, 1008e9),
    Speed("RTX 3090", 71e12, 936e9),
)


class Seconds(Frozen):
    """An estimate of one optimizer step with rows of full length, and what it is made of.

    The parts run on the card one after the other; `dispatch` is the processor's and runs beside them.
    """

    step: float
    matrix: float
    elements: float
    attention: float
    dequantization: float
    dispatch: float
    tokens_per_second: float


def speed_of(card: str) -> Speed | None:
    """The entry of a card by its full name, or None where there is none."""
    # The end of the name has to agree: an RTX 4070 Ti SUPER is another card.
    return next((speed for speed in SPEEDS if card.lower().endswith(speed.name.lower())), None)


def passes(recipe: Recipe, facts: BaseFacts) -> float:
    """How often the matrices of a layer are multiplied by a token, on average: forward, again, and backward."""
    if not recipe.gradient_checkpointing:
        return 2.0
    return 3.0 - min(recipe.uncheckpointed_layers, facts.layers) / facts.layers


def flops_per_token(recipe: Recipe, facts: BaseFacts, trainable: int, length: int) -> float:
    """Floating-point operations of one token of a row of `length`, forward and backward.

    The frozen weights need no gradient of their own; the head is multiplied again in its backward pass.
    """
    times = passes(recipe, facts)
    matrix = 2 * times * facts.linear_parameters + 2 * (times + 1) * trainable + 6 * facts.vocab * facts.hidden
    return float(matrix + attention_flops(recipe, facts, length))


def attention_flops(recipe: Recipe, facts: BaseFacts, length: int) -> float:
    """Those of them that attention takes: half of the full square, and five products backward to two forward."""
    forward = 2 * facts.layers * facts.heads * facts.head_dim * length
    return forward * (passes(recipe, facts) + 1.5)


def seconds(recipe: Recipe, facts: BaseFacts, modules: dict[str, int], trainable: int, speed: Speed) -> Seconds:
    """The estimate of a supervised step. `modules` are the adapted ones with their outputs; rows are of full length.

    A DPO step of as many pairs takes about DPO_TIMES as long: two rows, and a forward pass of the reference.
    """
    length = min(recipe.max_length, facts.context)
    tokens = recipe.batch_size * length
    micro = recipe.batch_size / recipe.micro_batch_size
    attention = attention_flops(recipe, facts, length)
    matrix = flops_per_token(recipe, facts, trainable, length) - attention
    moved = _elements(recipe, facts, modules) * (passes(recipe, facts) - 1 + BACKWARD_BYTES) * facts.layers
    memory = speed.bandwidth * MEMORY_EFFICIENCY
    parts = {
        "matrix": tokens * matrix / (speed.flops * MATRIX_EFFICIENCY),
        "attention": tokens * attention / (speed.flops * ATTENTION_EFFICIENCY),
        "elements": tokens * moved / memory + 20 * trainable / memory,
        "dequantization": micro * 2.5 * facts.linear_parameters * passes(recipe, facts) / memory,
    }
    dispatch = micro * kernels(facts, len(modules), passes(recipe, facts)) * speed.dispatch_s
    step = max(sum(parts.values()), dispatch)
    return Seconds(step=step, dispatch=dispatch, tokens_per_second=tokens / step, **parts)


def kernels(facts: BaseFacts, modules: int, passes: float) -> float:
    """Kernels that so many passes through the model take, `modules` of each layer being adapted."""
    return facts.layers * (OPERATIONS + OPERATIONS_A_MODULE * modules) * passes / 3


def _elements(recipe: Recipe, facts: BaseFacts, modules: dict[str, int]) -> float:
    """Bytes that the element-wise kernels of a layer's forward pass read and write for a token, in bfloat16."""
    attention, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    adapters = sum(7 * 2 * outputs for outputs in modules.values())  # copy, scale, add
    dropped = sum(5 * facts.hidden for _ in modules) if recipe.dropout else 0
    rotation = 13 * 2 * (attention + kv)
    norms = 2 * 36 * facts.hidden + 2 * 3 * 2 * facts.hidden
    return float(adapters + dropped + rotation + norms + 5 * 2 * facts.intermediate + 2 * 2 * attention)


def corrected(planned_s: float | None, measured_s: Sequence[float]) -> float | None:
    """Seconds a step as the first steps of a run show: their median, without those that warm up.

    Until one of them is past that, the plan's. Pure: give it what was measured so far.
    """
    settled = measured_s[WARM_UP_STEPS:]
    return statistics.median(settled) if settled else planned_s
