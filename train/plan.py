"""What a recipe will cost before it runs: trainable parameters, peak memory, work. Closed form, pure, no torch.

This is also the door through which the service sees training: `inspect_base` and `inspect_sources` read what a plan
needs of the files.

The memory formulas count tensors as transformers, peft, bitsandbytes and TRL keep them, for float32 adapters on an NF4
base. A micro-batch has T tokens in sequences of S; the model has hidden size H, intermediate size I, A = heads x
head_dim, K = kv_heads x head_dim, and computes in c bytes (2 on CUDA under bfloat16 autocast, 4 on the CPU).

    weights        NF4: n/2 + n/64 + n/4096 bytes of a matrix of n elements; all else c bytes a parameter
    adapters       4 P, and 2 P for autocast's copies; in the DPO stage twice that, for the reference
    gradients      4 P
    optimizer      8 P (AdamW), 2.03 P (8 bit)
    activations    saved for the backward pass: T x `saved_bytes` a layer, or c H T a layer with checkpointing
    workspace      the backward pass of one layer, with what checkpointing computes again for it
    loss           CUDA: TRL's fused head, in tiles; CPU: the logits, their softmax and their gradient
    context        what CUDA, the libraries or the interpreter take for themselves

The loss and the backward pass of the layers do not overlap: of loss and workspace, only the larger one is in the peak.
Source of the fused head's terms: trl/trainer/utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from train.base import TARGET_MODULES, BaseFacts, Linear, facts_of_config, inspect_base
from train.recipe import Frozen, Recipe, RecipeError
from train.sources import SourceFacts, inspect_sources

__all__ = [
    "TARGET_MODULES",
    "BaseFacts",
    "Layer",
    "Plan",
    "SourceFacts",
    "facts_of_config",
    "inspect_base",
    "inspect_sources",
    "plan",
    "saved_bytes",
]

DeviceKind = Literal["cuda", "cpu"]
Category = Literal["weights", "adapters", "gradients", "optimizer", "activations", "workspace", "loss", "context"]
StageName = Literal["sft", "dpo"]

MIB = 2**20
_CONTEXT = {"cuda": 486 * MIB, "cpu": 700 * MIB}  # CUDA's own and cuBLAS's workspaces; the interpreter and libraries
_OPTIMIZER = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "paged_adamw_8bit": 2 + 8 / 256}  # bytes a parameter
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768  # of the fused head


class Layer(Frozen):
    """The adapters on one kind of module: `count` of them, with `parameters` each, rank x (inputs + outputs)."""

    module: str
    inputs: int
    outputs: int
    rank: int
    parameters: int
    count: int


class Plan(Frozen):
    """What a run will cost. Memory is bytes at the peak of `peak_stage`; see the module for the categories.

    `tokens_at_most` are those that pass through the model if every row is as long as may be; a preference pair counts
    as two rows. `flops_per_token` are those of a training token of a full-length row, recomputation included.
    """

    trainable_parameters: int
    layers: tuple[Layer, ...]
    memory: dict[Category, int]
    peak_bytes: int
    peak_stage: StageName
    steps: int
    sft_steps: int
    dpo_steps: int
    tokens_at_most: int
    flops_per_token: float

    def fits(self, limit_bytes: int) -> str | None:
        """None where the peak is within `limit_bytes`; else why not, and what to lower."""
        if self.peak_bytes <= limit_bytes:
            return None
        largest = sorted(self.memory.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in largest)
        return (
            f"needs {_gib(self.peak_bytes)} of memory at its peak in the {self.peak_stage} stage ({parts}), and may "
            f"have {_gib(limit_bytes)}: lower micro_batch_size, max_length or rank, or set gradient_checkpointing"
        )


def plan(recipe: Recipe, facts: BaseFacts, device_kind: DeviceKind) -> Plan:
    """The plan of `recipe` on a base model. Raises RecipeError where the model has none of the recipe's targets."""
    layers = _layers(recipe, facts)
    trainable = sum(layer.parameters * layer.count for layer in layers)
    stages: list[StageName] = ["sft", "dpo"] if recipe.dpo_steps else ["sft"]
    memories = {stage: _memory(recipe, facts, device_kind, stage, layers) for stage in stages}
    peak_stage = max(stages, key=lambda stage: _peak(memories[stage]))
    length = min(recipe.max_length, facts.context)
    return Plan(
        trainable_parameters=trainable,
        layers=layers,
        memory=memories[peak_stage],
        peak_bytes=_peak(memories[peak_stage]),
        peak_stage=peak_stage,
        steps=recipe.steps,
        sft_steps=recipe.sft_steps,
        dpo_steps=recipe.dpo_steps,
        tokens_at_most=(recipe.sft_steps + 2 * recipe.dpo_steps) * recipe.batch_size * length,
        flops_per_token=_flops(recipe, facts, trainable, length),
    )


def _layers(recipe: Recipe, facts: BaseFacts) -> tuple[Layer, ...]:
    targets = TARGET_MODULES[recipe.targets]
    layers = tuple(_layer(linear, recipe.rank) for linear in facts.linears if linear.name in targets)
    if not layers:
        there = ", ".join(sorted({linear.name for linear in facts.linears})) or "none that Nightshift knows"
        raise RecipeError(
            f"targets = {recipe.targets!r} puts LoRA on {', '.join(targets)}, and the base model has none of them "
            f"(it has {there}); choose other targets"
        )
    return layers


def _layer(linear: Linear, rank: int) -> Layer:
    return Layer(
        module=linear.name,
        inputs=linear.inputs,
        outputs=linear.outputs,
        rank=rank,
        parameters=rank * (linear.inputs + linear.outputs),
        count=linear.count,
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


# Memory


def _memory(
    recipe: Recipe, facts: BaseFacts, device: DeviceKind, stage: StageName, layers: tuple[Layer, ...]
) -> dict[Category, int]:
    width = 2 if device == "cuda" else 4
    trainable = sum(layer.parameters * layer.count for layer in layers)
    sequences = recipe.micro_batch_size * (2 if stage == "dpo" else 1)
    length = min(recipe.max_length, facts.context)
    tokens = sequences * length
    dropout = recipe.dropout > 0 and stage == "sft"  # DPO compares log-probabilities with dropout off
    saved = tokens * saved_bytes(facts, layers, device, dropout=dropout, padded_to=length if sequences > 1 else 0)
    checkpoint = width * facts.hidden * tokens
    adapters = trainable * (4 + 2 * (device == "cuda")) * (2 if stage == "dpo" else 1)
    return {
        "weights": _weights(facts, width),
        "adapters": adapters,
        "gradients": 4 * trainable,
        "optimizer": math.ceil(_OPTIMIZER[recipe.optimizer] * trainable),
        "activations": facts.layers * (checkpoint if recipe.gradient_checkpointing else saved),
        "workspace": _backward(facts, tokens, width) + (saved if recipe.gradient_checkpointing else 0),
        "loss": _loss(facts, tokens, device),
        "context": _CONTEXT[device],
    }


def _peak(memory: dict[Category, int]) -> int:
    return sum(memory.values()) - min(memory["workspace"], memory["loss"])


def _weights(facts: BaseFacts, width: int) -> int:
    nf4 = sum(_nf4(linear.inputs * linear.outputs) * linear.count for linear in facts.linears)
    return nf4 + width * (facts.parameters - facts.linear_parameters)


def _nf4(elements: int) -> int:
    """Bytes of a matrix in NF4 with double quantization: 4 bits an element, a byte for each 64, 4 for each 16,384;
    every tensor is rounded up to 512, and the code and offset are two tensors more."""
    parts = (elements / 2, elements / 64, elements / 4096)
    return sum(512 * math.ceil(part / 512) for part in parts) + 2 * 512


def saved_bytes(facts: BaseFacts, layers: Iterable[Layer], device: DeviceKind, *, dropout: bool, padded_to: int) -> int:
    """Bytes that one decoder layer saves for its backward pass, for each token; `layers` are the adapters.

    `padded_to`: the length of the rows where a batch has padding (0: it has none). An attention mask then is kept in
    each layer, and keys and values are repeated for every head.
    """
    width = 2 if device == "cuda" else 4
    attention, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    if padded_to:
        kv = attention
    norms_and_attention = 8 * facts.hidden + 8 + 2 * width * (attention + kv) + 4 * facts.heads + width * padded_to
    mlp = 3 * width * facts.intermediate
    return norms_and_attention + mlp + _saved_by_adapters(layers, width, dropout)


def _saved_by_adapters(layers: Iterable[Layer], width: int, dropout: bool) -> int:
    """Inputs and middles of the adapters. Autocast and dropout give each adapter a copy of its input; else modules
    that read the same tensor share one, and o_proj reads what attention keeps anyway."""
    there = {layer.module: layer for layer in layers}
    middles = sum(width * layer.rank for layer in there.values())
    if dropout:
        mask = 1 if width == 2 else 4
        return middles + sum((width + mask) * layer.inputs for layer in there.values())
    if width == 2:
        return middles + sum(width * layer.inputs for layer in there.values())
    readers = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    return middles + sum(max((4 * there[n].inputs for n in names if n in there), default=0) for names in readers)


def _backward(facts: BaseFacts, tokens: int, width: int) -> int:
    """Temporaries of one layer's backward pass: gradients, casts, and a matrix in full (2 or 4 bytes an element).

    The coefficients bound what torch's profiler saw over model shapes and target sets, by at most a third of it.
    """
    matrix = width * facts.hidden * facts.intermediate
    per_token = 6 * facts.intermediate + 12 * facts.hidden if width == 2 else 11 * facts.intermediate + 3 * facts.hidden
    return per_token * tokens + matrix


def _loss(facts: BaseFacts, tokens: int, device: DeviceKind) -> int:
    if device == "cpu":
        return (12 * facts.vocab + 4 * facts.hidden) * tokens
    tiles = 2 * min(_TILE_VOCABULARY, facts.vocab) * min(_TILE_TOKENS, tokens)
    return 12 * facts.hidden * tokens + tiles


# Work


def _flops(recipe: Recipe, facts: BaseFacts, trainable: int, length: int) -> float:
    """Floating-point operations of one token, forward and backward: the frozen weights need no gradient of their own.

    Causal attention over a row of `length` takes half of the full square.
    """
    passes = 3 if recipe.gradient_checkpointing else 2  # forward, (forward again,) gradient of the inputs
    attention = 2 * facts.layers * facts.heads * facts.head_dim * length  # scores and values, half of the square
    head = facts.vocab * facts.hidden
    return float(
        2 * passes * facts.linear_parameters
        + 2 * (passes + 1) * trainable
        + attention * (passes + 1.5)  # its backward pass is five products to the forward's two
        + 4 * head
    )
