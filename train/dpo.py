"""The preference stage: DPO against the result of the supervised stage."""

from __future__ import annotations

from typing import Any

import trl

from train.model import LoadedBase
from train.recipe import Recipe
from train.stage import Stage, StageTrainer, arguments, rows_left


class DPOStage(StageTrainer, trl.DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer on tokenized rows (prompt_ids, chosen_ids, rejected_ids).

    Its constructor copies the adapter that it is given to a frozen one named "ref": that is the reference. Dropout is
    off in this stage (the model's modules are changed; see train.model.untouched).
    """

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokenized already, and TRL has no switch for that


def dpo_trainer(
    recipe: Recipe, stage: Stage, start: int, loaded: LoadedBase, model: Any, rows: Any, folder: str
) -> DPOStage:
    """A trainer of the DPO stage from step `start` on. `model` must hold the reference's weights at this moment."""
    config = trl.DPOConfig(
        **arguments(recipe, stage, start, loaded, folder),
        max_length=None,  # TRL would cut at 1,024 tokens
        loss_type=[recipe.dpo_loss],
        beta=recipe.dpo_beta,
    )
    left = rows_left(rows, recipe, stage, start)
    return DPOStage(recipe, stage, start, loaded, model, args=config, train_dataset=left)
