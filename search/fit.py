"""Which trials of a study fit the memory of its machine, by their plans and by what ran out before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search import faults, plan_choice, space
from search.config import StudyConfig
from search.parameters import Value
from search.study import OpenTrial, Study
from search.survey import Survey
from train.planning import plan as planning
from train.recipe import Recipe


@dataclass(frozen=True)
class Fit:
    """The memory of one study's machine."""

    config: StudyConfig
    survey: Survey
    study: Study

    def plan(self, recipe: Recipe) -> planning.Plan:
        """What this recipe needs there."""
        device, context = self.config.machine.device, plan_choice.context_bytes(self.config, self.survey)
        return planning.plan(recipe, self.survey.base, device, context)

    def limit_bytes(self) -> int | None:
        """The memory that there is; less of it counts once a trial ran out of what the plan gave it."""
        return faults.limit_bytes(plan_choice.limit_bytes(self.config, self.survey), self.study.records())

    def fits(self, params: Mapping[str, Value], limit: int | None) -> bool:
        """Whether a trial with these parameters fits in so many bytes."""
        recipe = space.recipe(self.config, params, self.survey)
        return not plan_choice.misfit(recipe, self.config, self.survey, limit)

    def misfit(self, trial: OpenTrial, recipe: Recipe, planned: planning.Plan) -> str:
        """Why the trial does not fit, or an empty string; the sampler is told by how much."""
        limit = self.limit_bytes()
        if limit is not None:
            self.study.constrain(trial, planned.peak_bytes / limit - 1.0)
        return plan_choice.misfit(recipe, self.config, self.survey, limit)
