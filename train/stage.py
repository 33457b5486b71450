"""What the stages of a run share: their place in the horizon, the learning rate, and how a trainer behaves here."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import bitsandbytes as bnb
import torch
import transformers
from torch.utils.data import DataLoader

from train.model import LoadedBase, adapter_parameters, keep_float32
from train.recipe import Recipe, Schedule


class TrainingFailed(Exception):
    """A run that came to nothing though it could be started: the message says where and what to change."""


class OutOfMemory(TrainingFailed):
    """A run that does not fit in the device's memory."""


@dataclass(frozen=True)
class Stage:
    """The steps `first` to `last` of a run, which one trainer makes. Steps count from 0 at the run's start."""

    name: Literal["sft", "dpo"]
    first: int
    last: int
    learning_rate: float

    @property
    def steps(self) -> int:
        return self.last - self.first


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a run, in order; DPO only where it has steps."""
    edge = recipe.sft_steps
    sft = Stage("sft", 0, edge, recipe.learning_rate)
    dpo = Stage("dpo", edge, recipe.steps, recipe.dpo_learning_rate)
    return (sft, dpo) if dpo.steps else (sft,)


def learning_rate_factor(schedule: Schedule, warmup: float, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step` of a stage of `steps` (step 0 is the first one, and above 0).

    A closed form of the step alone: a resumed stage needs no scheduler state.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    left = (steps - step) / (steps - rising) if step < steps else 0.0
    return left if schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


class StageTrainer(transformers.Trainer):  # type: ignore[misc]
    """Also mixed into TRL's trainers: trains the rows of one stage, in their order, from step `start` of the run on.

    It writes nothing, prints nothing, sends nothing, and needs no state of a scheduler or sampler to go on from where
    an earlier trainer stopped: the rows already used are left out, and the learning rate follows from the step.
    """

    def __init__(self, recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, model: Any, **kwargs: Any) -> None:
        self.recipe, self.stage, self.start, self.loaded = recipe, stage, start, loaded
        with keep_float32(model):
            super().__init__(model=model, processing_class=loaded.tokenizer, **kwargs)
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
        parameters = list(adapter_parameters(self.model).values())
        self.optimizer = make_optimizer(self.recipe, parameters, self.stage.learning_rate)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The recipe's schedule over the whole stage, beginning at `start`."""
        begun = self.start - self.stage.first

        def factor(step: int) -> float:
            return learning_rate_factor(self.recipe.schedule, self.recipe.warmup, begun + step, self.stage.steps)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Our own autocast: accelerate's would replace the model's forward, and stay there."""
        return self.loaded.autocast()

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers would walk over all modules for each micro-batch."""
        return 0

    def _send_telemetry(self) -> None:
        """TRL would report the model's architecture to the hub."""


def make_optimizer(recipe: Recipe, parameters: list[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with the usual betas (0.9, 0.999) and epsilon 1e-8, with states in 32 or 8 bits, the latter also paged."""
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw": lambda *args, **kwargs: torch.optim.AdamW(*args, **kwargs, fused=True),
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }
    return makers[recipe.optimizer](parameters, lr=learning_rate, weight_decay=recipe.weight_decay)


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
