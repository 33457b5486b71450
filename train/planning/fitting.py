"""What a memory has room for: the largest batch, the least checkpointing, and why a recipe does not fit. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from train.base import BaseFacts
from train.planning.memory import DeviceKind
from train.planning.plan import plan
from train.recipe import Recipe

# Of a limit: what a choice of layers leaves free. Fragmentation is not planned, and a context is assumed until a card
# was measured; not measured yet on the cards that Nightshift is for.
MARGIN = 0.05


class Room(NamedTuple):
    """The largest that a memory has room for, all else in the recipe being as it is; 0 where nothing fits.

    `micro_batch_size` divides the recipe's batch_size; `max_length` is for micro-batches of one example;
    `uncheckpointed_layers` are for the recipe's own batch.
    """

    micro_batch_size: int
    max_length: int
    uncheckpointed_layers: int


def room(recipe: Recipe, facts: BaseFacts, device: DeviceKind, limit_bytes: int, context: int | None = None) -> Room:
    """The largest batch, length and number of un-checkpointed layers within `limit_bytes`."""

    def fits(**changes: int) -> bool:
        return plan(recipe.model_copy(update=changes), facts, device, context).fits(limit_bytes)

    sizes = [size for size in range(1, recipe.batch_size + 1) if recipe.batch_size % size == 0]
    layers = range(1, facts.layers + 1) if recipe.gradient_checkpointing else range(0)
    return Room(
        _largest(sizes, lambda size: fits(micro_batch_size=size)),
        _largest(range(8, facts.context + 1), lambda length: fits(micro_batch_size=1, max_length=length)),
        _largest(layers, lambda count: fits(uncheckpointed_layers=count)),
    )


def least_checkpointed(
    recipe: Recipe, facts: BaseFacts, device: DeviceKind, limit_bytes: int | None, context: int | None = None
) -> Recipe:
    """The recipe with as many un-checkpointed layers as `limit_bytes`, less MARGIN of it, have room for.

    All layers where there is no limit: then nothing is checkpointed. Where not even one fits, all are.
    """

    def fits(count: int) -> bool:
        changed = recipe.model_copy(update={"gradient_checkpointing": True, "uncheckpointed_layers": count})
        return limit_bytes is None or plan(changed, facts, device, context).fits(int((1 - MARGIN) * limit_bytes))

    count = _largest(range(1, facts.layers + 1), fits)
    some = count < facts.layers
    return recipe.model_copy(update={"gradient_checkpointing": some, "uncheckpointed_layers": count if some else 0})


def misfit(recipe: Recipe, facts: BaseFacts, device: DeviceKind, limit_bytes: int, context: int | None = None) -> str:
    """Why the recipe does not fit `limit_bytes`, and the largest batch that does; an empty string where it fits."""
    planned = plan(recipe, facts, device, context)
    if planned.fits(limit_bytes):
        return ""
    widest = sorted(planned.memory.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in widest)
    return (
        f"needs {_gib(planned.peak_bytes)} of memory at its peak in the {planned.peak_stage} stage ({parts}), and may "
        f"have {_gib(limit_bytes)}: {largest(recipe, facts, device, limit_bytes, context)}"
    )


def largest(recipe: Recipe, facts: BaseFacts, device: DeviceKind, limit_bytes: int, context: int | None = None) -> str:
    """The largest batch of such a recipe within `limit_bytes`, every layer checkpointed, as a sentence's end."""
    every = recipe.model_copy(update={"gradient_checkpointing": True, "uncheckpointed_layers": 0})
    found = room(every, facts, device, limit_bytes, context)
    already = recipe.gradient_checkpointing and not recipe.uncheckpointed_layers
    start = "the largest batch that fits" + ("" if already else ", every layer checkpointed,")
    if found.micro_batch_size:
        length = min(recipe.max_length, facts.context)
        return f"{start} is micro_batch_size = {found.micro_batch_size} with max_length = {length}"
    if found.max_length:
        return f"{start} is micro_batch_size = 1 with max_length = {found.max_length}"
    return "not even one short row fits; take a smaller base model, a lower rank, or a card with more memory"


def _largest(rising: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The last of the numbers that fits, where every one before it does; 0 where none does."""
    low, high = 0, len(rising)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(rising[middle]) else (low, middle)
    return rising[low - 1] if low else 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
