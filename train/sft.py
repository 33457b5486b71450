"""The supervised stage: next-token loss on the labels that the data set brings, nothing else."""

from __future__ import annotations

from typing import Any

import trl

from train.model import LoadedBase
from train.recipe import Recipe
from train.stage import Stage, StageTrainer, arguments, rows_left


class SFTStage(StageTrainer, trl.SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer on tokenized rows (input_ids, labels), which it neither prepares nor cuts."""


def sft_trainer(
    recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, model: Any, rows: Any, folder: str
) -> SFTStage:
    """A trainer of the supervised stage from step `start` on, on the adapter of the PeftModel `model`."""
    config = trl.SFTConfig(
        **arguments(recipe, stage, start, loaded, folder),
        dataset_kwargs={"skip_prepare_dataset": True},
        completion_only_loss=False,  # the labels say what counts
    )
    left = rows_left(rows, recipe, stage, start)
    return SFTStage(recipe, stage, start, loaded, model, args=config, train_dataset=left)
