"""The supervised stage: the mean cross-entropy of a step's learned tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from trl.kernels import ChunkedLogProbFunction

from train.model import LoadedBase
from train.neftune import noisy_embeddings
from train.packing import ATTENTION, IGNORED, MicroBatch, StepBatch, attention_of, step_batch
from train.recipe import Recipe, RecipeError
from train.stage import Stage, StageTrainer, arguments, rows_left

_VOCABULARY_TILE = 32768  # columns of the head that are multiplied at once, as TRL's own trainers do


class SFTStage(StageTrainer):
    """transformers' Trainer on tokenized rows (input_ids, labels): each of its batches is a whole optimizer step."""

    tokens = 0

    def training_step(self, model: Any, inputs: StepBatch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward through every micro-batch of a step; returns the step's loss."""
        self.tokens += inputs.tokens
        step = super().training_step
        with attention_of(self.loaded.model, ATTENTION if self.recipe.packing else "sdpa"):
            losses = [step(model, vars(batch), inputs.learned) for batch in inputs.micro_batches]
        return torch.stack(losses).sum()

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The micro-batch's share of the step's loss."""
        batch = MicroBatch(**inputs)
        assert not return_outputs
        with noisy_embeddings(self.loaded.model, self.recipe.neftune_alpha, batch.lengths):
            loss: torch.Tensor = token_losses(self.loaded, batch).sum() / num_items_in_batch
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[StepBatch], device: torch.device) -> int:
        return sum(batch.learned for batch in batch_samples)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds num_tokens: those of all steps so far that are not padding."""
        super().log({**logs, "num_tokens": self.tokens}, start_time)


def token_losses(loaded: LoadedBase, batch: MicroBatch) -> torch.Tensor:
    """The cross-entropy of each learned token of `batch`, shape (learned tokens,).

    Only those positions reach the model's head, and its logits exist in tiles of them only (trl.kernels).
    """
    model = loaded.model
    hidden = model.base_model(**batch.inputs, use_cache=False).last_hidden_state[:, :-1]
    targets = batch.labels[:, 1:]
    learned = targets != IGNORED
    head = model.get_output_embeddings()
    softcap, scale = _head_transform(model.config)
    log_probs: torch.Tensor = ChunkedLogProbFunction.apply(
        hidden[learned], head.weight, head.bias, targets[learned], 1.0, _VOCABULARY_TILE, softcap, scale, ("log_probs",)
    )[0]
    return -log_probs


def _head_transform(config: transformers.PretrainedConfig) -> tuple[float | None, float]:
    """How a model changes its logits after the head: (soft cap, factor). Most do not.

    The names are those of Gemma 2, Cohere, Falcon-H1 and Granite in transformers.
    """
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
    if scale is None and (divisor := getattr(config, "logits_scaling", None)):
        scale = 1 / divisor
    return getattr(config, "final_logit_softcapping", None), 1.0 if scale is None else scale


def sft_trainer(
    recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, model: Any, rows: Any, folder: str
) -> SFTStage:
    """A trainer of the supervised stage from step `start` on, on the adapter of the PeftModel `model`."""
    if recipe.packing and not loaded.model._supports_attention_backend:
        raise RecipeError(
            f"{type(loaded.model).__name__} does not let its attention be replaced, which packing needs: "
            "set packing = false in the [recipe] section"
        )
    args = transformers.TrainingArguments(
        **{
            **arguments(recipe, stage, start, loaded, folder),
            "per_device_train_batch_size": recipe.batch_size,
            "gradient_accumulation_steps": 1,  # a batch is a step; see SFTStage.training_step
        },
    )

    def collate(rows: list[Any]) -> StepBatch:
        size, length, pad = recipe.micro_batch_size, recipe.max_length, loaded.tokenizer.pad_token_id
        return step_batch(rows, packing=recipe.packing, micro_batch_size=size, max_length=length, pad=pad)

    left = rows_left(rows, recipe, stage, start)
    return SFTStage(recipe, stage, start, loaded, model, args=args, train_dataset=left, data_collator=collate)
