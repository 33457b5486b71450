"""What a recipe will cost before it runs: trainable parameters, peak memory, work. Closed form, pure, no torch.

This is also the door through which the service sees training: `inspect_base` and `inspect_sources` read what a plan
needs of the files. The formulas are in train.planning.memory and train.planning.flops, and derived in docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from train.base import TARGET_MODULES, BaseFacts, Linear, check_is_base, facts_of_config, inspect_base, targeted
from train.data.sources import SourceFacts, inspect_sources
from train.planning.calibration import ASSUMED, context_bytes
from train.planning.flops import SPEEDS, Seconds, Speed, flops_per_token, seconds, speed_of
from train.planning.memory import Category, DeviceKind, Memory, StageName, Step, generating, peaks
from train.planning.shapes import shape_of
from train.recipe import Frozen, Recipe

__all__ = [
    "SPEEDS",
    "TARGET_MODULES",
    "BaseFacts",
    "Category",
    "DeviceKind",
    "Layer",
    "Plan",
    "Room",
    "Seconds",
    "SourceFacts",
    "Speed",
    "check_is_base",
    "context_bytes",
    "facts_of_config",
    "generation_bytes",
    "inspect_base",
    "inspect_sources",
    "plan",
    "room",
    "shape_of",
    "speed_of",
    "step_seconds",
    "targeted",
]


class Layer(Frozen):
    """The adapters on one kind of module: `count` of them, with `parameters` each: rank x (inputs + outputs), and
    with DoRA one for each output."""

    module: str
    inputs: int
    outputs: int
    rank: int
    parameters: int
    count: int


class Plan(Frozen):
    """What a run will cost. Memory is bytes at the peak, which is in a phase of a step of `peak_stage`.

    Its categories add up to `peak_bytes`; `stage_bytes` has the peak of each stage. `tokens_at_most` are those that
    pass through the model if every row is as long as may be; a preference pair counts as two rows. `flops_per_token`
    are those of a training token of a full-length row, recomputation included. `disk_bytes` are those of a run's
    folder at most: three checkpoints, of which one is being written, and the finished adapter.
    """

    trainable_parameters: int
    layers: tuple[Layer, ...]
    memory: dict[Category, int]
    peak_bytes: int
    peak_stage: StageName
    peak_phase: str
    stage_bytes: dict[StageName, int]
    steps: int
    sft_steps: int
    dpo_steps: int
    tokens_at_most: int
    flops_per_token: float
    disk_bytes: int

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


class Room(NamedTuple):
    """The largest that a memory has room for, all else in the recipe being as it is; 0 where nothing fits.

    `micro_batch_size` divides the recipe's batch_size; `max_length` is for micro-batches of one example;
    `uncheckpointed_layers` are for the recipe's own batch.
    """

    micro_batch_size: int
    max_length: int
    uncheckpointed_layers: int


def plan(recipe: Recipe, facts: BaseFacts, device_kind: DeviceKind, context: int | None = None) -> Plan:
    """The plan of `recipe` on a base model; `context` are the bytes that the device takes beside torch's tensors.

    Raises RecipeError where the model has none of the recipe's targets.
    """
    layers = _layers(recipe, facts)
    trainable = sum(layer.parameters * layer.count for layer in layers)
    context = ASSUMED[device_kind] if context is None else context
    stages: list[StageName] = ["sft", "dpo"] if recipe.dpo_steps else ["sft"]
    widest = {stage: _widest(peaks(facts, _step(recipe, facts, device_kind, stage, layers))) for stage in stages}
    totals = {stage: sum(memory.values()) + context for stage, (_, memory) in widest.items()}
    peak_stage = max(stages, key=lambda stage: totals[stage])
    phase, memory = widest[peak_stage]
    length = min(recipe.max_length, facts.context)
    return Plan(
        trainable_parameters=trainable,
        layers=layers,
        memory={**memory, "context": context},
        peak_bytes=totals[peak_stage],
        peak_stage=peak_stage,
        peak_phase=phase,
        stage_bytes=totals,
        steps=recipe.steps,
        sft_steps=recipe.sft_steps,
        dpo_steps=recipe.dpo_steps,
        tokens_at_most=(recipe.sft_steps + 2 * recipe.dpo_steps) * recipe.batch_size * length,
        flops_per_token=flops_per_token(recipe, facts, trainable, length),
        disk_bytes=_disk_bytes(recipe, trainable),
    )


def _disk_bytes(recipe: Recipe, trainable: int) -> int:
    """float32 adapters, the DPO stage's reference beside them, and the optimizer's states, which paging leaves alike;
    4 MiB for all else (events, samples, random states)."""
    states = 8.0 if recipe.optimizer == "adamw" else 2.04
    checkpoint = trainable * (4 + states + (4 if recipe.dpo_steps else 0))
    return round(3 * checkpoint + 4 * trainable) + 4 * 2**20


def _widest(phases: dict[str, Memory]) -> tuple[str, dict[Category, int]]:
    """The phase with the largest sum, in whole bytes."""
    name = max(phases, key=lambda phase: sum(phases[phase].values()))
    return name, {category: round(size) for category, size in phases[name].items()}


def _layers(recipe: Recipe, facts: BaseFacts) -> tuple[Layer, ...]:
    return tuple(_layer(linear, recipe) for linear in targeted(facts.linears, recipe.targets))


def _layer(linear: Linear, recipe: Recipe) -> Layer:
    magnitudes = linear.outputs if recipe.use_dora else 0
    return Layer(
        module=linear.name,
        inputs=linear.inputs,
        outputs=linear.outputs,
        rank=recipe.rank,
        parameters=recipe.rank * (linear.inputs + linear.outputs) + magnitudes,
        count=linear.count,
    )


def _step(recipe: Recipe, facts: BaseFacts, device: DeviceKind, stage: StageName, layers: tuple[Layer, ...]) -> Step:
    whole = min(recipe.uncheckpointed_layers, facts.layers) if recipe.gradient_checkpointing else facts.layers
    return Step(
        device=device,
        stage=stage,
        rows=recipe.micro_batch_size * (2 if stage == "dpo" else 1),
        length=min(recipe.max_length, facts.context),
        packed=recipe.packing and stage == "sft",
        accumulates=recipe.batch_size > recipe.micro_batch_size,
        rank=recipe.rank,
        modules=_together(layers),
        sides=tuple(recipe.rank * side for layer in layers for side in (layer.inputs, layer.outputs)),
        dropout=recipe.dropout > 0 and stage == "sft",  # DPO compares log-probabilities with dropout off
        optimizer=recipe.optimizer,
        checkpointed=facts.layers - whole,
        whole=whole,
        dora=recipe.use_dora,
    )


def _together(layers: tuple[Layer, ...]) -> dict[str, int]:
    """Parameters by module: one kind of module can have several sizes."""
    modules: dict[str, int] = {}
    for layer in layers:
        modules[layer.module] = modules.get(layer.module, 0) + layer.parameters * layer.count
    return modules


def room(recipe: Recipe, facts: BaseFacts, device: DeviceKind, limit_bytes: int, context: int | None = None) -> Room:
    """The largest batch, length and number of un-checkpointed layers within `limit_bytes`."""

    def fits(**changes: int) -> bool:
        changed = recipe.model_copy(update=changes)
        return plan(changed, facts, device, context).peak_bytes <= limit_bytes

    sizes = [size for size in range(1, recipe.batch_size + 1) if recipe.batch_size % size == 0]
    layers = range(1, facts.layers + 1) if recipe.gradient_checkpointing else range(0)
    return Room(
        _largest(sizes, lambda size: fits(micro_batch_size=size)),
        _largest(range(8, facts.context + 1), lambda length: fits(micro_batch_size=1, max_length=length)),
        _largest(layers, lambda count: fits(uncheckpointed_layers=count)),
    )


def _largest(rising: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The last of the numbers that fits, where every one before it does; 0 where none does."""
    low, high = 0, len(rising)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(rising[middle]) else (low, middle)
    return rising[low - 1] if low else 0


def step_seconds(recipe: Recipe, facts: BaseFacts, speed: Speed) -> Seconds:
    """An estimate of one supervised optimizer step on a card, with rows of full length."""
    layers = _layers(recipe, facts)
    trainable = sum(layer.parameters * layer.count for layer in layers)
    return seconds(recipe, facts, {layer.module: layer.outputs for layer in layers}, trainable, speed)


def generation_bytes(
    recipe: Recipe, facts: BaseFacts, device: DeviceKind, sequences: int, prompt: int, new: int
) -> int:
    """The peak of answering with the trained adapter: `sequences` prompts at once, `new` tokens each."""
    adapters = sum(layer.parameters * layer.count for layer in _layers(recipe, facts))
    return round(sum(generating(facts, adapters, sequences, prompt, new, device).values())) + ASSUMED[device]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
