"""What has to hold of a run beside that it can be made: a base model as its base, licences that allow it, and training
data that do not hold the prompts of its score.

Looked at when a run is frozen and again when it is started, by the same code. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from train.base import BaseFacts, check_is_base
from train.data.sources import SourceFacts
from train.licences import BASE, Licence
from train.recipe import Frozen, Recipe, RecipeError
from train.rundir import Json


class Rules(Frozen):
    """What a run was frozen with: the licence of its base model (`base`) and of each of its data sources, and whether
    its data may share text with the prompts of its score."""

    licences: dict[str, Licence]
    allow_overlap: bool = False


def unlicensed(recipe: Recipe, licences: Mapping[str, Licence]) -> list[tuple[str, str]]:
    """What a run uses whose licence is not told, each with its place: (name, hub id or path)."""
    used = [(BASE, recipe.base.model), *((source.name, source.hub or str(source.path)) for source in recipe.sources)]
    return [(name, place) for name, place in used if name not in licences]


def overlapping(recipe: Recipe, facts: Mapping[str, SourceFacts], prompts_sha256: str) -> Iterator[str]:
    """The sources that keep rows which share text with the prompts of the score, each as the start of a sentence."""
    for source in recipe.sources:
        if source.filters.overlap != "drop":
            yield f'data source {source.name} may share text with the prompts of the score (overlap = "keep")'
        elif prompts_sha256 not in {prompts.sha256 for prompts in facts[source.name].overlap_with}:
            yield f"data source {source.name} was not compared with the prompts of the score (overlap_with lacks them)"


def check(
    recipe: Recipe, base: BaseFacts, facts: Mapping[str, SourceFacts], prompts_sha256: str, rules: Json
) -> list[str]:
    """What is told of a run that starts, a line each. `rules` is what was frozen of them.

    Raises RecipeError where the base model is none, where a licence is missing, or where data overlap with the prompts
    of the score and may not.
    """
    check_is_base(recipe.base, base)
    try:
        held = Rules.model_validate_json(json.dumps(rules))
    except ValueError as error:
        raise RecipeError(f"the rules in the frozen file are not valid: {error}; freeze it again") from None
    broken = [f"the licence of {name} ({place}) was not frozen" for name, place in unlicensed(recipe, held.licences)]
    broken += [] if held.allow_overlap else overlapping(recipe, facts, prompts_sha256)
    if broken:
        raise RecipeError(f"{'; '.join(broken)}; freeze it again, which says what can be done")
    return list(told(recipe, base, facts, held))


def told(recipe: Recipe, base: BaseFacts, facts: Mapping[str, SourceFacts], rules: Rules) -> Iterator[str]:
    """What whoever makes the run should know: a base model that was let pass as one, the conditions of licences, and
    the rows that were left out as overlap."""
    if base.tuned:
        yield f"{recipe.base.model} is no base model, and allow_instruct let it pass: {base.tuned}"
    for name, licence in rules.licences.items():
        if licence.terms:
            yield f"licence of {name}: {licence}"
    for source in recipe.sources:
        rows = f"of {facts[source.name].rows_read:,} rows of {source.name}"
        if source.filters.overlap == "drop":
            count = facts[source.name].removed.get("overlap", 0)
            yield f"overlap with the prompts of the score: {count:,} {rows} left out"
    if kept := [source.name for source in recipe.sources if source.filters.overlap != "drop"]:
        yield (
            f"overlap with the prompts of the score: not looked for in the rows of {', '.join(kept)}, since "
            'overlap = "keep"'
        )
