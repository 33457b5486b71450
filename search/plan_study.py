"""What the recipes of a study will cost: the ones picked by hand, the cheapest, the dearest, and the space's corners.

Reads the study file and the base model's sizes, and nothing else: neither weights nor data need be there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import space
from search.config import StudyConfig
from search.errors import SearchError
from train.planning import plan as planning
from train.recipe import Recipe

# What of a recipe decides its memory or its time; all else is the same for both.
COSTLY = ("targets", "rank", "max_length", "batch_size", "optimizer", "dropout", "dpo_share", "use_dora")
TABLE = ("targets", "rank", "max_length")  # of a table's corners; the rest is at its dearest
MOST_CORNERS = 30
PROMPT_TOKENS = 512  # of the longest prompts that are answered
GIB = 2**30

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Machine:
    """What is planned for. `speed` is None where nothing is known of the card's."""

    device: planning.DeviceKind
    card: str
    limit_bytes: int | None
    context_bytes: int
    context_measured: bool
    speed: planning.Speed | None


@dataclass(frozen=True)
class Planned:
    """One recipe's plan. `room` is None where there is no limit, `seconds` where the machine's speed is not known."""

    name: str
    recipe: Recipe
    plan: planning.Plan
    seconds: planning.Seconds | None
    room: planning.Room | None
    misfit: str

    @property
    def fits(self) -> bool:
        return not self.misfit


@dataclass(frozen=True)
class StudyPlan:
    """The plans of a study on one base model. `named` begins with the cheapest recipe and ends with the dearest."""

    base: str
    facts: planning.BaseFacts
    machine: Machine
    named: tuple[Planned, ...]
    corners: tuple[Planned, ...]
    generation_bytes: int
    answers_at_once: int


def study_plans(config: StudyConfig, bases: Sequence[str], machine: Machine) -> list[StudyPlan]:
    """Plan a study on each of these base models, or on its own."""
    chosen = bases or [config.base.model]
    revisions = [config.base.revision if base == config.base.model else None for base in chosen]
    found = [planning.shape_of(base, revision) for base, revision in zip(chosen, revisions, strict=True)]
    return [study_plan(config, base, facts, machine) for base, facts in zip(chosen, found, strict=True)]


def study_plan(config: StudyConfig, base: str, facts: planning.BaseFacts, machine: Machine) -> StudyPlan:
    """Plan a study on a base model. Raises SearchError, naming the largest that fits, where no recipe does."""
    spots = list(_spots(config, COSTLY))
    planned = [_planned("", config, spot, facts, machine) for spot in spots]
    cheapest = min(planned, key=lambda each: each.plan.peak_bytes)
    dearest = max(planned, key=lambda each: each.plan.peak_bytes)
    rest = dict(spots[planned.index(dearest)])
    priors = [_planned(prior.name, config, {**rest, **prior.params}, facts, machine) for prior in config.prior]
    corners = [_planned("", config, {**rest, **spot}, facts, machine) for spot in _table(config)]
    named = [_named(cheapest, "cheapest"), *priors, _named(dearest, "dearest")]
    if not any(each.fits for each in (*named, *corners)):
        raise SearchError(_nothing_fits(base, facts, named[0], machine))
    objective = config.objective
    answering = planning.generation_bytes(
        dearest.recipe, facts, machine.device, objective.batch_size, PROMPT_TOKENS, objective.max_new_tokens
    )
    with_room = tuple(_with_room(each, facts, machine) for each in named)
    return StudyPlan(base, facts, machine, with_room, tuple(corners), answering, objective.batch_size)


def _spots(config: StudyConfig, names: Sequence[str]) -> Iterator[Params]:
    """Every combination of the ends of what the study searches of these parameters."""
    searched = [name for name in names if name in config.space]
    ends = [config.space[name].ends for name in searched]
    yield from (dict(zip(searched, values, strict=True)) for values in itertools.product(*ends))


def _table(config: StudyConfig) -> list[Params]:
    """The corners for the table: all of them, or where these are many, those with the lowest and highest numbers."""
    spots = list(_spots(config, TABLE))
    if len(spots) <= MOST_CORNERS:
        return spots
    numbers = {name: config.space[name].ends for name in ("rank", "max_length") if name in config.space}
    return [spot for spot in spots if all(spot[n] in (min(ends), max(ends)) for n, ends in numbers.items())]


def _planned(name: str, config: StudyConfig, params: Params, facts: planning.BaseFacts, machine: Machine) -> Planned:
    recipe = space.recipe(config, dict(params))
    made = planning.plan(recipe, facts, machine.device, machine.context_bytes)
    seconds = planning.step_seconds(recipe, facts, machine.speed) if machine.speed else None
    misfit = (made.fits(machine.limit_bytes) or "") if machine.limit_bytes else ""
    return Planned(name, recipe, made, seconds, None, misfit)


def _named(planned: Planned, name: str) -> Planned:
    return Planned(name, planned.recipe, planned.plan, planned.seconds, planned.room, planned.misfit)


def _with_room(planned: Planned, facts: planning.BaseFacts, machine: Machine) -> Planned:
    if machine.limit_bytes is None:
        return planned
    room = planning.room(planned.recipe, facts, machine.device, machine.limit_bytes, machine.context_bytes)
    return Planned(planned.name, planned.recipe, planned.plan, planned.seconds, room, planned.misfit)


def _nothing_fits(base: str, facts: planning.BaseFacts, cheapest: Planned, machine: Machine) -> str:
    assert machine.limit_bytes is not None
    needs, has = cheapest.plan.peak_bytes / GIB, machine.limit_bytes / GIB
    recipe = cheapest.recipe
    start = (
        f"no recipe of this study fits {base} into {has:.2f} GiB: the cheapest needs {needs:.2f} GiB, with "
        f"micro_batch_size {recipe.micro_batch_size}, max_length {recipe.max_length} and rank {recipe.rank}"
    )
    checkpointed = recipe.model_copy(update={"gradient_checkpointing": True, "uncheckpointed_layers": 0})
    room = planning.room(checkpointed, facts, machine.device, machine.limit_bytes, machine.context_bytes)
    with_it = "" if recipe.gradient_checkpointing else "gradient_checkpointing = true and "
    if room.micro_batch_size:
        size = room.micro_batch_size
        return f"{start}. The largest batch that fits: set {with_it}micro_batch_size = {size} in [recipe]"
    if room.max_length:
        return (
            f"{start}. The largest batch that fits: set {with_it}micro_batch_size = 1 in [recipe], and max_length = "
            f"{room.max_length} or less"
        )
    return f"{start}. Not even one token fits: take a smaller base model, a lower rank, or a card with more memory"
