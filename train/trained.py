"""How a call of training ended, and what this machine says of itself."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any, Literal

import torch

from train.model import LoadedBase
from train.planning.plan import facts_of_config, speed_of, step_seconds
from train.recipe import Recipe, RecipeError

Outcome = Literal["completed", "pruned", "stopped"]


@dataclass(frozen=True)
class Trained:
    """How a call of `train` ended. `model` is the PeftModel, still on the base, in evaluation mode.

    `steps`, `examples`, `tokens` and `rungs` (bits per byte by fraction) are the run's, over all attempts; `seconds` by
    phase (data, train, probe, save) are this call's. `peak_memory_bytes` is the device's during this call; on the CPU
    it is the largest that this process ever was. `back_to` is the step whose weights the supervised stage ended with,
    since the held-out loss was clearly higher at its end; 0 where it ended with those of its last step.
    """

    outcome: Outcome
    model: Any
    steps: int
    examples: int
    tokens: int
    seconds: dict[str, float]
    rungs: dict[float, float]
    peak_memory_bytes: int
    trainable_parameters: int
    back_to: int


def planned_step_s(recipe: Recipe, base: LoadedBase) -> float | None:
    """The plan's estimate of a step on this card, where its speed and the model's sizes are known."""
    speed = speed_of(torch.cuda.get_device_name(base.device)) if base.device.type == "cuda" else None
    if speed is None:
        return None
    try:
        return step_seconds(recipe, facts_of_config(base.model.config.to_dict()), speed).step
    except RecipeError:
        return None  # an architecture whose sizes the plan cannot read off its configuration


def peak_memory_bytes(device: torch.device) -> int:
    """Of this process so far; see Trained."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
