"""What the stages of a run share: their place in the horizon, the learning rate, and how a trainer behaves here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import bitsandbytes as bnb
import torch
import transformers
from torch.utils.data import DataLoader

from train.horizon import Horizon, StageName
from train.model import MAGNITUDE, LoadedBase, adapter_parameters, checkpoint_layers, keep_float32
from train.recipe import Recipe

Parameters = Mapping[str, torch.nn.Parameter]


class TrainingFailed(Exception):
    """A run that came to nothing though it could be started: the message says where and what to change."""


class OutOfMemory(TrainingFailed):
    """A run that does not fit in the device's memory."""


@dataclass(frozen=True)
class Stage:
    """The steps `first` to `last` of a run, which one trainer makes. Steps count from 0 at the run's start.

    `last` is as far as there are rows; where the stage is to end is the horizon's to say. `factor` gives the share of
    the peak learning rate after so many steps of the run.
    """

    name: StageName
    first: int
    last: int
    learning_rate: float
    factor: Callable[[int], float] = field(repr=False, compare=False)

    @property
    def steps(self) -> int:
        return self.last - self.first


def stages(horizon: Horizon) -> Iterator[Stage]:
    """The stages of a run, in order; DPO only where it has steps, and beginning where the other one ended by then."""
    recipe, most = horizon.course.recipe, horizon.most
    yield Stage("sft", 0, most.sft_steps, recipe.learning_rate, lambda step: _factor(horizon, "sft", step))
    now = horizon.course.now
    if now.steps > now.sft_steps:
        last = now.sft_steps + most.dpo_steps
        yield Stage("dpo", now.sft_steps, last, recipe.dpo_learning_rate, lambda step: _factor(horizon, "dpo", step))


def _factor(horizon: Horizon, stage: StageName, step: int) -> float:
    course = horizon.course
    return learning_rate_factor(course.recipe, course.place(stage, step), course.length(stage))


def learning_rate_factor(recipe: Recipe, step: float, steps: int) -> float:
    """The share of the peak learning rate at `step` of a stage of `steps` (step 0 is the first one, and above 0).

    A closed form of the step alone: a resumed stage needs no scheduler state. In a run whose end is decided on the way
    `step` is its place in the recipe's own stage (see train.horizon). "wsd" (warmup, stable, decay) falls only at the
    end, as 1 minus the square root of the decay's progress (Hägele et al., arXiv 2405.18392).
    """
    rising = math.ceil(recipe.warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if recipe.schedule == "constant":
        return 1.0
    falling = steps - rising
    if recipe.schedule == "wsd":
        falling = min(falling, math.ceil(recipe.decay * steps))
    left = min(1.0, (steps - step) / falling) if step < steps else 0.0
    match recipe.schedule:
        case "wsd":
            return 1.0 - math.sqrt(1.0 - left)
        case "linear":
            return left
        case _:
            return 0.5 * (1.0 - math.cos(math.pi * left))


class StageTrainer(transformers.Trainer):  # type: ignore[misc]
    """Also mixed into TRL's trainers: trains the rows of one stage, in their order, from step `start` of the run on.

    It writes nothing, prints nothing, sends nothing, and needs no state of a scheduler or sampler to go on from where
    an earlier trainer stopped: the rows already used are left out, and the learning rate follows from the step.
    """

    def __init__(self, recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, model: Any, **kwargs: Any) -> None:
        self.recipe, self.stage, self.start, self.loaded = recipe, stage, start, loaded
        with keep_float32(model):
            super().__init__(model=model, processing_class=loaded.tokenizer, **kwargs)
        checkpoint_layers(model, recipe)
        self.remove_callback(transformers.PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The rows that are left, in order. Draws nothing from the global random state."""
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator,
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """The recipe's optimizer over the adapter's weights."""
        self.optimizer = make_optimizer(self.recipe, adapter_parameters(self.model), self.stage.learning_rate)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The stage's schedule, beginning at `start`."""
        start, factor = self.start, self.stage.factor
        made = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, lambda step: factor(start + step))
        self.lr_scheduler = made
        return self.lr_scheduler

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Our own autocast: accelerate's would replace the model's forward, and stay there."""
        return self.loaded.autocast()

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers would walk over all modules for each micro-batch."""
        return 0

    def _send_telemetry(self) -> None:
        """TRL would report the model's architecture to the hub."""


def make_optimizer(recipe: Recipe, parameters: Parameters, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW (beta1 0.9, epsilon 1e-8) with states in 32 or 8 bits, the latter also paged, over weights by name.

    B's learning rate is `loraplus_ratio` times the others' (LoRA+, arXiv 2402.12354). DoRA's magnitudes do not decay:
    they do not start at 0, as what LoRA adds does, but at the norms of the base's weights.
    """
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw": lambda *args, **kwargs: torch.optim.AdamW(*args, **kwargs, fused=True),
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {(learning_rate, recipe.weight_decay): []}
    for name, parameter in parameters.items():
        rate = learning_rate * (recipe.loraplus_ratio if "lora_B" in name else 1.0)
        decay = 0.0 if name.endswith(MAGNITUDE) else recipe.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    made = [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items() if found]
    return makers[recipe.optimizer](made, lr=learning_rate, betas=(0.9, recipe.adam_beta2))


def arguments(recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, folder: str) -> dict[str, Any]:
    """The arguments that both trainers take. `folder` must exist; nothing is written there."""
    return {
        "output_dir": folder,
        "seed": recipe.seed,
        "per_device_train_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch_size // recipe.micro_batch_size,
        "max_steps": stage.last - start,
        "max_grad_norm": recipe.max_grad_norm,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "use_cpu": loaded.device.type == "cpu",
        "bf16": False,  # see StageTrainer.autocast_smart_context_manager
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it hides losses that are not finite
        "log_level": "error",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_left(rows: Any, recipe: Recipe, stage: Stage, start: int) -> Any:
    """The rows of a stage that steps before `start` have not used."""
    assert len(rows) == stage.steps * recipe.batch_size, (len(rows), stage, recipe.batch_size)
    return rows.select(range((start - stage.first) * recipe.batch_size, len(rows)))
