"""What a recipe will cost before it runs: trainable parameters, peak memory, work. Closed form, pure, no torch.

This is also the door through which the service sees training: `inspect_base` and `inspect_sources` read what a plan
needs of the files. The formulas are in train.planning.memory and train.planning.flops, and derived in docs/memory.md.
"""

from __future__ import annotations

from train.base import TARGET_MODULES, BaseFacts, Linear, NoEos, check_is_base, facts_of_config, inspect_base, targeted
from train.data.sources import SourceFacts, inspect_sources
from train.planning.calibration import ASSUMED, context_bytes
from train.planning.flops import SPEEDS, Seconds, Speed, flops_per_token, seconds, speed_of
from train.planning.memory import Category, DeviceKind, Memory, StageName, Step, peaks
from train.planning.scoring import Adapters, Answers, ScoreSeconds, generating, score_seconds
from train.planning.shapes import shape_of
from train.recipe import Frozen, Recipe

__all__ = [
    "SPEEDS",
    "TARGET_MODULES",
    "Answers",
    "BaseFacts",
    "Category",
    "DeviceKind",
    "Layer",
    "NoEos",
    "Plan",
    "ScoreSeconds",
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
    "scoring_seconds",
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

    def fits(self, limit_bytes: int) -> bool:
        """Whether the peak is within `limit_bytes`; train.planning.fitting says why it is not."""
        return self.peak_bytes <= limit_bytes


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


def step_seconds(recipe: Recipe, facts: BaseFacts, speed: Speed) -> Seconds:
    """An estimate of one supervised optimizer step on a card, with rows of full length."""
    layers = _layers(recipe, facts)
    trainable = sum(layer.parameters * layer.count for layer in layers)
    return seconds(recipe, facts, {layer.module: layer.outputs for layer in layers}, trainable, speed)


def generation_bytes(
    recipe: Recipe, facts: BaseFacts, device: DeviceKind, asked: Answers, context: int | None = None
) -> int:
    """The peak of answering with the trained adapter, the device's own included."""
    held = sum(generating(facts, _adapters(recipe, facts), asked, device).values())
    return round(held) + (ASSUMED[device] if context is None else context)


def scoring_seconds(recipe: Recipe, facts: BaseFacts, asked: Answers, speed: Speed) -> ScoreSeconds:
    """An estimate of scoring on a card, at most."""
    return score_seconds(facts, _adapters(recipe, facts), asked, speed)


def _adapters(recipe: Recipe, facts: BaseFacts) -> Adapters:
    layers = _layers(recipe, facts)
    parameters = sum(layer.parameters * layer.count for layer in layers)
    return Adapters({layer.module: layer.outputs for layer in layers}, recipe.rank, parameters)
