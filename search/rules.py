"""The rules of a final run, looked at when it is frozen: what `train.rules` looks at again when it starts.

Every rule that is broken is told at once, with what can be done.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping

from search.config import StudyConfig
from search.errors import RulesBroken
from search.sections import FinalSection
from train import licences
from train.base import BaseFacts, check_is_base
from train.data.sources import SourceFacts
from train.licences import BASE, Licence
from train.recipe import Recipe
from train.rules import Rules, overlapping, unlicensed


def judged(
    config: StudyConfig,
    recipe: Recipe,
    base: BaseFacts,
    data: Mapping[str, SourceFacts],
    prompts_sha256: str,
    accepted: Collection[str] = (),
) -> Rules:
    """The rules that the run is frozen with. `accepted` names what may be used although its licence is not known.

    Raises RecipeError where the base model is none, RulesBroken with all other rules that are broken.
    """
    check_is_base(recipe.base, base)
    found = _licences(recipe, base, config.final, accepted)
    broken = _names(accepted, recipe) + _unknown(config, recipe, found)
    if not config.final.allow_overlap:
        broken += [f"{why}. {_OVERLAP}" for why in overlapping(recipe, data, prompts_sha256)]
    if broken:
        raise RulesBroken("\n".join(broken))
    return Rules(licences=found, allow_overlap=config.final.allow_overlap)


_OVERLAP = (
    'A score on prompts that were trained on says nothing. Take overlap = "drop" in the filters of that source, in a '
    "new study; or, where the score is not meant to be compared, set allow_overlap = true in [final]"
)


def _licences(recipe: Recipe, base: BaseFacts, final: FinalSection, accepted: Collection[str]) -> dict[str, Licence]:
    """The licence of everything whose licence is known, stated or accepted: what the study states goes first."""
    known = {BASE: licences.of_base(recipe.base.model, base.folder)}
    known |= {source.name: licences.of_source(source) for source in recipe.sources}
    known |= {name: licences.ACCEPTED for name in accepted if name in known and known[name] is None}
    known |= {name: licences.stated(text) for name, text in final.licences.items() if name in known}
    return {name: licence for name, licence in known.items() if licence}


def _names(accepted: Collection[str], recipe: Recipe) -> list[str]:
    """What is accepted and not used by the run."""
    names = [BASE, *(source.name for source in recipe.sources)]
    there = ", ".join(names)
    unknown = sorted(set(accepted) - set(names))
    return [f"--accept-licence {name}: the run uses nothing of this name; it has {there}" for name in unknown]


def _unknown(config: StudyConfig, recipe: Recipe, found: Mapping[str, Licence]) -> list[str]:
    missing = unlicensed(recipe, found)
    if not missing:
        return []
    things = ", ".join(f"{name} ({place})" for name, place in missing)
    stated = ", ".join(f'{name} = "SPDX-ID"' for name, _ in missing)
    options = [part for name, _ in missing for part in ("--accept-licence", name)]
    command = shlex.join(["nightshift", "freeze", str(config.path), *options])
    return [
        f"the licence of {things} is not known, and everything in a run has to be open. Read the terms; then state "
        f"them in [final], like licences = {{ {stated} }}, or accept them as they are: {command}"
    ]
