"""Room on the disk for a merged model, told before it is needed. Imports no torch."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from train.base import BaseFacts
from train.recipe import RecipeError
from train.shards import weight_files

SPARE = 2**28  # bytes that stay free beside the weights: the tokenizer, and whatever else writes meanwhile


def merged_bytes(facts: BaseFacts) -> int:
    """Bytes of the weights of a model merged with an adapter: those of its base model, in the base's own precision."""
    return sum(file.stat().st_size for file in weight_files(Path(str(facts.folder))))


def too_small(folder: Path, needed: int) -> str:
    """What is missing where `folder`, which may not be there yet, is to hold so many bytes; empty where it can."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if free >= needed + SPARE:
        return ""
    return f"{spelled(needed + SPARE)} are needed in {folder}, {more(needed + SPARE, free)} more than are free"


def check(folder: Path, needed: int) -> None:
    """Raise RecipeError where `folder` has no room for so many bytes."""
    if said := too_small(folder, needed):
        raise RecipeError(f"{said}: make room there, or take another disk")


def notice(folder: Path, facts: BaseFacts) -> list[str]:
    """A line where `folder` has no room for the merged model that is looked at after training."""
    said = too_small(folder, merged_bytes(facts))
    return (
        [f"to look at the merged model after training, {said}: unless there is room by then, it is left out"]
        if said
        else []
    )


def spelled(size: float) -> str:
    """Bytes in the unit that reads best."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def more(needed: int, there: int) -> str:
    """What is missing of `needed` bytes, in a unit of its own, however near the two are; rounded up, so that it
    suffices."""
    missing, unit = needed - there, 2**30 if needed - there >= 2**30 else 2**20
    return spelled(math.ceil(10 * missing / unit) * unit / 10)
