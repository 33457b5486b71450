"""What the plan decides in a recipe: how many layers are checkpointed, where a study leaves that to it.

`gradient_checkpointing = "auto"` in [recipe] keeps the activations of as many layers as the memory has room for, which
saves their second forward pass. It is decided before a RunDir is made: recipes say a number. What is learned does not
depend on it, so the limit is no part of a study's identity; a trial keeps the number that it began with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.config import StudyConfig
from search.sections import AUTO
from train.planning import fitting, plan
from train.recipe import Recipe

if TYPE_CHECKING:
    from search.survey import Survey


def is_auto(config: StudyConfig) -> bool:
    """Whether the study leaves the choice to the plan."""
    return bool(config.recipe.get("gradient_checkpointing") == AUTO)


def limit_bytes(config: StudyConfig, survey: Survey) -> int | None:
    """The memory that a trial may need at its peak: the study's, else the card's; None on a CPU without either."""
    return config.machine.memory_bytes or (survey.card.memory_bytes if survey.card else None)


def context_bytes(config: StudyConfig, survey: Survey) -> int:
    """What the study's device takes beside torch's tensors."""
    return plan.context_bytes(config.machine.device, survey.card.name if survey.card else None)[0]


def misfit(recipe: Recipe, config: StudyConfig, survey: Survey, limit: int | None) -> str:
    """Why a trial of this recipe does not fit in so many bytes, and what would; an empty string where it fits."""
    context = context_bytes(config, survey)
    return fitting.misfit(recipe, survey.base, config.machine.device, limit, context) if limit else ""


def chosen(recipe: Recipe, config: StudyConfig, survey: Survey) -> Recipe:
    """The recipe with the least checkpointing that fits this study's machine."""
    limit, context = limit_bytes(config, survey), context_bytes(config, survey)
    return fitting.least_checkpointed(recipe, survey.base, config.machine.device, limit, context)
