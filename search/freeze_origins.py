"""Where each value of a frozen recipe came from, and what the freeze changed: from what to what, and why."""

from __future__ import annotations

from collections.abc import Mapping

from search.config import ELSEWHERE, StudyConfig
from search.horizon import Correction, Horizon
from search.sections import AUTO
from search.transfer import PREFIX, Earlier
from storage.records import TrialRecord
from train.recipe import Recipe
from train.rundir import Json

_SECTIONS = {"base": "[base]", "sources": "[[data]]", "probe": "[probe]", "seed": "[study]", "threads": "[machine]"}
assert _SECTIONS.keys() == set(ELSEWHERE)


def origins(config: StudyConfig, record: TrialRecord, earlier: Earlier | None = None) -> dict[str, str]:
    """For each field of the frozen recipe, and for each searched weight, who gave it its value.

    `earlier` is what the study took from another one (see search.transfer.kept). Where that is not known any more, a
    trial that began from there says so of every value.
    """
    values = {name: f"set in {_SECTIONS[name]}" if name in _SECTIONS else "default" for name in Recipe.model_fields}
    values |= dict.fromkeys(config.recipe, "set in [recipe]")
    if config.recipe.get("gradient_checkpointing") == AUTO:
        why = "chosen by the plan: the most un-checkpointed layers that fitted the card"
        values |= {"gradient_checkpointing": why, "uncheckpointed_layers": why}
    given, by = _given(config, record, earlier)
    for name in record.params:
        values[name] = f"searched, {config.space[name]}" if name in config.space else "searched"
        if name in given:
            values[name] += f"; {by}"
    return {**values, "examples": "set by the freeze"}


def _given(config: StudyConfig, record: TrialRecord, earlier: Earlier | None) -> tuple[frozenset[str], str]:
    """The parameters that a trial was queued with, and in words by whom."""
    named = str(record.user_attrs.get("prior") or "")
    prior = next((prior for prior in config.prior if prior.name == named), None)
    if prior:
        return frozenset(prior.params), f"this one from the prior {prior.name}"
    if not named.startswith(PREFIX):
        return frozenset(), ""
    if earlier and named in earlier.priors:
        return frozenset(earlier.priors[named]), f"this one {named}, another study's trial"
    return frozenset(record.params), f"this one may be {named}, another study's trial"


def changes(config: StudyConfig, recipe: Recipe, horizon: Horizon, rates: Mapping[str, Correction]) -> Json:
    """What is not as it was in the trial: from what to what, and why."""
    found: Json = {"examples": {"from": recipe.examples, "to": horizon.examples, "why": horizon.why}}
    found |= {name: {"from": rate.before, "to": rate.after, "why": rate.why} for name, rate in rates.items()}
    before, after = config.objective.max_new_tokens, config.final.max_new_tokens
    if before != after:
        why = "set in [final]: nobody waits for the last evaluation, and longer answers need not be cut"
        found["max_new_tokens"] = {"from": before, "to": after, "why": why}
    return found
