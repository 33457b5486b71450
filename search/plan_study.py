"""What recipes will cost: one, or of a study the ones picked by hand, the cheapest, the dearest, and the corners.

Reads the study file and the base model's sizes, and nothing else: neither weights nor data need be there.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search import affordable, cost_record, finals_record, plan_choice, plan_trials, space
from search.config import StudyConfig
from search.errors import SearchError
from search.sections import ObjectiveSection
from train.planning import fitting
from train.planning import plan as planning
from train.recipe import Base, Recipe
from train.rundir import RunDir, read_json

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
    room: fitting.Room | None
    misfit: str

    @property
    def fits(self) -> bool:
        return not self.misfit


@dataclass(frozen=True)
class StudyPlan:
    """The plans of a study, or of one recipe, on one base model.

    `named` begins with the cheapest recipe and ends with the dearest, which the last three fields are of. Of one
    recipe, it is all there is. `score_seconds` is None where the machine's speed is not known. Of a study, `ruled_out`
    says what of its space never fits, and `trials` what its trials cost.
    """

    base: str
    facts: planning.BaseFacts
    machine: Machine
    named: tuple[Planned, ...]
    corners: tuple[Planned, ...]
    asked: planning.Answers
    generation_bytes: int
    score_seconds: planning.ScoreSeconds | None
    ruled_out: tuple[plan_trials.RuledOut, ...] = ()
    trials: plan_trials.TrialCosts | None = None

    @property
    def is_one(self) -> bool:
        """Whether it is the plan of one recipe."""
        return not self.corners


@dataclass(frozen=True)
class SoFar:
    """What of a study is known besides its file: the folder of its runs, trials that ended, GPU-seconds spent, of how
    many (None: as the file says), seconds until its time of day, the prompts of its search half (0: not known), and the
    GPU-seconds that the final race will need (0: as planned)."""

    runs: Path | None = None
    ended: int = 0
    spent_s: float = 0.0
    budget_s: float | None = None
    tonight_s: float | None = None
    search_half: int = 0
    race_s: float = 0.0

    @property
    def scored(self) -> bool:
        """Whether the base model's score is there."""
        result = read_json(RunDir(self.runs / "base").result) if self.runs else None
        return result is not None and result["outcome"] == "completed"


NOTHING = SoFar()


def answers(objective: ObjectiveSection) -> planning.Answers:
    """What a trial is asked, at most."""
    return planning.Answers(objective.subset, objective.batch_size, PROMPT_TOKENS, objective.max_new_tokens)


def study_plans(
    config: StudyConfig, bases: Sequence[str], machine: Machine, so_far: SoFar = NOTHING
) -> list[StudyPlan]:
    """Plan a study on each of these base models, or on its own."""
    return [study_plan(config, base, facts, machine, so_far) for base, facts in shapes(config.base, bases)]


def shapes(own: Base, bases: Sequence[str]) -> list[tuple[str, planning.BaseFacts]]:
    """The base models to plan on, with their sizes: these, or a study's or recipe's own."""
    chosen = bases or [own.model]
    return [(base, planning.shape_of(base, own.revision if base == own.model else None)) for base in chosen]


def study_plan(
    config: StudyConfig, base: str, facts: planning.BaseFacts, machine: Machine, so_far: SoFar = NOTHING
) -> StudyPlan:
    """Plan a study on a base model. Raises SearchError, naming the largest that fits, where no recipe does."""
    sized = [(spot, _least_bytes(config, spot, facts, machine)) for spot in _spots(config, COSTLY)]
    sized.sort(key=lambda each: each[1])
    least, rest = sized[0][0], dict(sized[-1][0])
    cheapest = _of_study("cheapest", config, least, facts, machine)
    priors = [_of_study(prior.name, config, {**rest, **prior.params}, facts, machine) for prior in config.prior]
    dearest = _of_study("dearest", config, rest, facts, machine)
    corners = [_of_study("", config, {**rest, **spot}, facts, machine) for spot in _table(config)]
    named = (cheapest, *priors, dearest)
    if not any(each.fits for each in (*named, *corners)):
        raise SearchError(f"no recipe of this study fits {base}: the cheapest {named[0].misfit}")
    others = [_of_study("", config, {**least, **spot}, facts, machine) for spot in _table(config)]
    return replace(
        _complete(base, facts, machine, named, tuple(corners), answers(config.objective)),
        ruled_out=tuple(plan_trials.ruled_out(config, sized, machine.limit_bytes)) if machine.limit_bytes else (),
        trials=trials(config, facts, machine, so_far, [each.recipe for each in (*named, *corners, *others)]),
    )


def trials(
    config: StudyConfig,
    facts: planning.BaseFacts,
    machine: Machine,
    so_far: SoFar = NOTHING,
    others: Sequence[Recipe] = (),
) -> plan_trials.TrialCosts | None:
    """What trials cost, by recipes drawn from the space and `others`; learned from the study's runs, where there are
    any. None where none of those drawn fits."""
    prices = cost_record.prices(config, facts, machine.speed, so_far.runs)
    drawn = plan_trials.sampled(config)
    chosen = [_chosen(config, params, facts, machine) for params in drawn]
    fitting = [(params, recipe) for params, recipe in zip(drawn, chosen, strict=True) if _fits(recipe, facts, machine)]

    def seconds(params: Params) -> float:
        recipe = _chosen(config, params, facts, machine)
        return prices.seconds(recipe) if _fits(recipe, facts, machine) else math.inf

    def race_s(prompt_s: float) -> float:
        load_s = prices.costs.of(prices.terms.work(fitting[0][1], load=True)).by_cause["load"]
        count = min(config.study.finalists, config.study.trials)
        return so_far.race_s or finals_record.race_s(config, so_far.search_half, count, prompt_s, load_s)

    small = [affordable.smallest(config.space, config.recipe, params, seconds) for params, _ in fitting[:1]]
    limit_s = 3600 * config.study.budget_hours if so_far.budget_s is None else so_far.budget_s
    left = affordable.Left(limit_s, so_far.spent_s, so_far.tonight_s)
    return plan_trials.trial_costs(
        prices,
        [recipe for _, recipe in fitting],
        [
            *(_chosen(config, params, facts, machine) for params in small),
            *(recipe for recipe in others if _fits(recipe, facts, machine)),
        ],
        sampled=len(drawn),
        left_s=left.seconds,
        tonight_s=so_far.tonight_s,
        race_s=race_s,
        race_known=so_far.search_half > 0 or not config.study.finalists,
        refused=lambda recipe: (
            affordable.refusal(
                prices,
                recipe,
                replace(left, kept_s=so_far.race_s),
                scored=so_far.scored,
                study=shlex.quote(str(config.path)),
            )
            if so_far.ended < config.study.trials
            else ""
        ),
    )


def _fits(recipe: Recipe, facts: planning.BaseFacts, machine: Machine) -> bool:
    limit = machine.limit_bytes
    return limit is None or planning.plan(recipe, facts, machine.device, machine.context_bytes).fits(limit)


def recipe_plan(
    recipe: Recipe, base: str, facts: planning.BaseFacts, machine: Machine, asked: planning.Answers
) -> StudyPlan:
    """Plan one recipe on a base model. Raises SearchError, naming the largest that fits, where it does not."""
    planned = _planned("recipe", recipe, facts, machine)
    if not planned.fits:
        raise SearchError(f"the recipe does not fit {base}: it {planned.misfit}")
    return _complete(base, facts, machine, (planned,), (), asked)


def _complete(
    base: str,
    facts: planning.BaseFacts,
    machine: Machine,
    named: Sequence[Planned],
    corners: tuple[Planned, ...],
    asked: planning.Answers,
) -> StudyPlan:
    dearest = named[-1].recipe
    answering = planning.generation_bytes(dearest, facts, machine.device, asked, machine.context_bytes)
    seconds = planning.scoring_seconds(dearest, facts, asked, machine.speed) if machine.speed else None
    with_room = tuple(_with_room(each, facts, machine) for each in named)
    return StudyPlan(base, facts, machine, with_room, corners, asked, answering, seconds)


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


def _least_bytes(config: StudyConfig, params: Params, facts: planning.BaseFacts, machine: Machine) -> int:
    """The peak before the plan has chosen anything, which fills what is left."""
    return planning.plan(space.recipe(config, params), facts, machine.device, machine.context_bytes).peak_bytes


def _of_study(name: str, config: StudyConfig, params: Params, facts: planning.BaseFacts, machine: Machine) -> Planned:
    return _planned(name, _chosen(config, params, facts, machine), facts, machine)


def _chosen(config: StudyConfig, params: Params, facts: planning.BaseFacts, machine: Machine) -> Recipe:
    """The recipe of these parameters, with what the plan is to choose."""
    recipe = space.recipe(config, params)
    if not plan_choice.is_auto(config):
        return recipe
    return fitting.least_checkpointed(recipe, facts, machine.device, machine.limit_bytes, machine.context_bytes)


def _planned(name: str, recipe: Recipe, facts: planning.BaseFacts, machine: Machine) -> Planned:
    made = planning.plan(recipe, facts, machine.device, machine.context_bytes)
    seconds = planning.step_seconds(recipe, facts, machine.speed) if machine.speed else None
    limit, context = machine.limit_bytes, machine.context_bytes
    misfit = fitting.misfit(recipe, facts, machine.device, limit, context) if limit else ""
    return Planned(name, recipe, made, seconds, None, misfit)


def _with_room(planned: Planned, facts: planning.BaseFacts, machine: Machine) -> Planned:
    if machine.limit_bytes is None:
        return planned
    room = fitting.room(planned.recipe, facts, machine.device, machine.limit_bytes, machine.context_bytes)
    return replace(planned, room=room)
