"""Whether an error in the worker is the machine's fault, or the recipe's."""

from __future__ import annotations

from objectives.score import ObjectiveError
from train.recipe import Recipe, RecipeError


def unfit(kind: str, recipe: Recipe, error: Exception) -> bool:
    """Whether every recipe would fail here: data or prompts that are gone or not those that were pinned, a disk.

    `kind` is the job's. An adapter that is gone is its own trial's loss.
    """
    disk = error if isinstance(error, OSError) else error.__cause__  # what the training loop says of a disk
    if isinstance(disk, OSError):
        return not (kind == "fresh" and isinstance(disk, FileNotFoundError))
    return isinstance(error, ObjectiveError) or (isinstance(error, RecipeError) and not _data_are_there(recipe))


def _data_are_there(recipe: Recipe) -> bool:
    from train.data import sources

    try:
        sources.inspect_sources(recipe.sources)
    except (RecipeError, OSError):
        return False
    return True
