"""The space at work: what a trial is given, the Recipe that it makes, and a description to compare studies by.

Which parameters there are, and their ranges, stands in search.parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search import plan_choice
from search.config import StudyConfig
from search.parameters import WEIGHT, Choice, IntRange, Parameter, Value, condition
from train.recipe import Base, PromptFile, Recipe, Source

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

    from search.survey import Survey


def suggest(trial: BaseTrial, config: StudyConfig) -> dict[str, Value]:
    """The trial's value of every parameter that matters to it: one whose condition does not hold is not suggested.

    Conditions come first; the others in the order of study.toml.
    """
    params: dict[str, Value] = {}
    for name in sorted(config.space, key=lambda name: condition(name) is not None):
        needed = condition(name)
        if needed is None or needed.holds(params.get(needed.on, config.recipe.get(needed.on))):
            params[name] = _suggest(trial, name, config.space[name])
    return params


def _suggest(trial: BaseTrial, name: str, parameter: Parameter) -> Value:
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, list(parameter.choices))  # type: ignore[return-value]
    if isinstance(parameter, IntRange):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step or 1, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def recipe(config: StudyConfig, params: Mapping[str, Value], survey: Survey | None = None) -> Recipe:
    """The recipe of these parameters, and of [recipe] and Recipe's defaults for what they do not name.

    A survey pins the base model and the data by what they hold, and says what search.plan_choice decides by; until
    then, what the plan is to choose is at its cheapest in memory. Without parameters, this is a recipe on which the
    base model can be scored, which trains nothing: every searched parameter at its first value.
    """
    chosen = dict(params) or {name: parameter.first for name, parameter in config.space.items()}
    fields: dict[str, Any] = {name: value for name, value in chosen.items() if not name.startswith(WEIGHT)}
    auto = plan_choice.is_auto(config)
    made = Recipe(
        base=_base(config, survey),
        sources=tuple(_source(source, chosen, survey) for source in sources(config)),
        probe=config.probe,
        seed=config.study.seed,
        threads=config.machine.threads,
        **{**config.recipe, **({"gradient_checkpointing": True} if auto else {})},
        **fields,
    )
    return plan_choice.chosen(made, config, survey) if auto and survey and params else made


def _base(config: StudyConfig, survey: Survey | None) -> Base:
    if survey is None:
        return config.base
    pins = {"sha256": survey.base.sha256, "revision": config.base.revision or survey.base.revision}
    return config.base.model_copy(update=pins)


def sources(config: StudyConfig) -> tuple[Source, ...]:
    """The data, each source without what overlaps with the prompts that a trial is scored on (unless it may)."""
    return tuple(_apart(source, PromptFile(path=str(config.objective.prompts))) for source in config.data)


def _apart(source: Source, judged: PromptFile) -> Source:
    if source.filters.overlap == "keep":
        return source
    others = tuple(prompts for prompts in source.filters.overlap_with if prompts.path != judged.path)
    filters = source.filters.model_copy(update={"overlap_with": (*others, judged)})
    return source.model_copy(update={"filters": filters})


def _source(source: Source, params: Mapping[str, Value], survey: Survey | None) -> Source:
    """The source with the weight that the trial gives it. Validated anew: the weight may come from a database."""
    known: dict[str, Any] = source.model_dump()
    if WEIGHT + source.name in params:
        known["weight"] = params[WEIGHT + source.name]
    if survey:
        facts = survey.sources[source.name]
        known["sha256"] = facts.sha256
        known["filters"] |= {"overlap_with": facts.overlap_with}
    return Source(**known)


def optuna_distributions(config: StudyConfig) -> dict[str, BaseDistribution]:
    """The distribution of every parameter, as `suggest` tells Optuna of it."""
    return {name: _distribution(parameter) for name, parameter in config.space.items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, step=parameter.step or 1, log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def distributions(config: StudyConfig) -> dict[str, dict[str, Any]]:
    """The space as JSON, parameter by parameter: equal for two studies whose trials can be compared."""
    return {name: _described(name, parameter) for name, parameter in sorted(config.space.items())}


def _described(name: str, parameter: Parameter) -> dict[str, Any]:
    kind = {"Choice": "choice", "IntRange": "int", "FloatRange": "float"}[type(parameter).__name__]
    when = {"when": str(condition(name))} if condition(name) else {}
    return {"kind": kind, **parameter.model_dump(mode="json", exclude_none=True), **when}
