"""What is looked at before a final run uses a second: its hours, the card's memory, and room on the disk. No torch."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from train import room
from train.base import BaseFacts, own_chat_template
from train.card import Card, NoCard, card
from train.planning.calibration import context_bytes
from train.planning.memory import DeviceKind
from train.planning.plan import Plan, plan
from train.recipe import Recipe, RecipeError
from train.rundir import RunDir

BEST = 5 / 3  # times the room of a trial, for the checkpoints of the lowest held-out loss beside the newest ones


def card_for(device: DeviceKind) -> Card | None:
    """The card that the run is made on; None on the CPU. Raises RecipeError where it needs one and there is none."""
    if device == "cpu":
        return None
    try:
        return card()
    except NoCard as reason:
        raise RecipeError(
            f"this run needs a CUDA device, but {reason}; mend the driver (`nvidia-smi` has to list a card), or make "
            "the run on another machine"
        ) from None


def template(recipe: Recipe, base: BaseFacts) -> str | None:
    """The chat template that prompts are put into: the recipe's, else the tokenizer's own."""
    return recipe.chat_template or own_chat_template(Path(base.folder or ""))


def check(recipe: Recipe, base: BaseFacts, run: RunDir, here: Card | None, hours: float, least_hours: float) -> None:
    """Raise RecipeError where the hours are too few for a few steps, where the card's memory is smaller than what the
    plan needs, or where checkpoints and adapter have no room on the disk; with all that is wrong."""
    planned = plan(recipe, base, "cuda" if here else "cpu", context_bytes("cuda", here.name)[0] if here else None)
    wrong = [_hours(hours, least_hours), _memory(planned, here), _disk(planned, run)]
    if any(wrong):
        raise RecipeError("; ".join(filter(None, wrong)))


def _hours(hours: float, least: float) -> str:
    if hours >= least:
        return ""
    return f"{hours:g} hours are too few to load the model and make a few steps: it takes at least {_up(least)}"


def _up(hours: float) -> str:
    """Two digits, rounded up, so that so many suffice."""
    digit = 10 ** (math.floor(math.log10(hours)) - 1)
    return f"{math.ceil(hours / digit) * digit:.2g}"


def _memory(planned: Plan, here: Card | None) -> str:
    if here is None or planned.peak_bytes <= here.memory_bytes:
        return ""
    needed, missing = room.spelled(planned.peak_bytes), room.more(planned.peak_bytes, here.memory_bytes)
    return (
        f"this run needs {needed} of the card's memory, {missing} more than the {here.name} here has: make it on a "
        "larger card, or freeze a study that was made for this one"
    )


def _disk(planned: Plan, run: RunDir) -> str:
    """What is missing on the disk for all that a run keeps at once, beside what an earlier start has written."""
    written = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    needed = max(0, round(BEST * planned.disk_bytes) - written)
    free = shutil.disk_usage(run.path if run.path.exists() else run.path.parent).free
    if free >= needed:
        return ""
    return (
        f"checkpoints and adapter take {room.spelled(needed)} on the disk of {run.path.parent}, "
        f"{room.more(needed, free)} more than are free: make room"
    )
