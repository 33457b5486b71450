"""Optuna's sampler of a study: recipes as search.policy chooses them.

Nothing is remembered from one trial to the next: a suggestion follows from the trials that ended before it, the
study's seed and the trial's number. A study that was killed after any trial so suggests what an uninterrupted one does.
It is written down whole before Optuna records its parameters one by one: a kill between two of them changes nothing.
Only where the best-looking recipe would not end within the budget, it depends on what is left of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search.affordable import smallest
from search.points import Params, Points
from search.policy import Fits, Policy, believed
from search.tried import Outcome, Tried, tried
from storage.records import STATES

SUGGESTED = "nightshift:suggested"  # system attribute of a trial: the whole suggestion
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
Excess = Callable[[Mapping[str, Any]], float]  # seconds of a recipe beyond what is left; at most 0: it may start
Choose = Callable[[Mapping[str, Any], Fits], Params]  # around what is fixed, the first that fits, else the first


@dataclass(frozen=True)
class Suggestion:
    """A recipe to try; `smaller`: others looked better, and would not end within the budget."""

    params: Params
    smaller: bool = False


class PolicySampler(BaseSampler):
    """Suggests all parameters of a trial at once. `distributions` are those of the whole space, conditional ones
    included; `fits` says whether a recipe fits the machine, `excess` whether the budget: others are passed over."""

    def __init__(
        self,
        points: Points,
        distributions: Mapping[str, BaseDistribution],
        seed: Sequence[int],
        fits: Fits,
        excess: Excess = lambda _: 0.0,
    ) -> None:
        self._points = points
        self._distributions = distributions
        self._seed = seed
        self._fits = fits
        self._excess = excess

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The recipe of this trial, around what a hand-picked one has fixed."""
        if SUGGESTED not in trial.system_attrs:
            fixed = trial.system_attrs.get("fixed_params", {})
            suggestion = self.suggest(study, fixed)
            found = suggestion.params if suggestion else self._chooser(study)(fixed, self._fits)
            study._storage.set_trial_system_attr(trial._trial_id, SUGGESTED, found)
            return dict(found)
        return dict(trial.system_attrs[SUGGESTED])

    def suggest(self, study: optuna.Study, fixed: Mapping[str, Any]) -> Suggestion | None:
        """The recipe of the next trial, around what is fixed; None where the budget is too small for all of them.

        One that does not fit the machine is suggested only where none is found that does.
        """
        named = self._points.params(self._points.places(fixed))
        if named.keys() <= fixed.keys():  # nothing is left to choose
            return Suggestion(named) if self._excess(named) <= 0 else None
        choose = self._chooser(study)
        best = choose(fixed, self._fits)
        if self._excess(best) <= 0:
            return Suggestion(best)
        found = self._smaller(choose, best, fixed)
        return None if found is None else Suggestion(found, smaller=True)

    def _smaller(self, choose: Choose, best: Params, fixed: Mapping[str, Any]) -> Params | None:
        """The best of those that the budget has enough for: at worst, one that takes as few seconds as can be."""
        least = smallest(self._points.space, self._points.fixed, best, self._beyond, keep=fixed)
        if self._beyond(least) > 0:
            return None
        shortening = {name: value for name, value in least.items() if best.get(name) != value}
        for around in (fixed, {**shortening, **fixed}):
            found = choose(around, lambda params: self._beyond(params) <= 0)
            if self._beyond(found) <= 0:
                return found
        return least

    def _beyond(self, params: Mapping[str, Any]) -> float:
        return self._excess(params) if self._fits(dict(params)) else math.inf

    def _chooser(self, study: optuna.Study) -> Choose:
        before = study.get_trials(deepcopy=False, states=ENDED)
        known = [trial for each in before if (trial := _tried(each))]
        if not any(trial.tells for trial in known):
            return lambda fixed, fits: believed(self._points, self._seed, fixed, fits)
        policy = Policy(self._points, known)
        return lambda fixed, fits: policy.new(self._seed, fixed, fits)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """For what is not in the space, which a study has nothing of."""
        return RandomSampler(seed=0).sample_independent(study, trial, param_name, param_distribution)


def _tried(trial: FrozenTrial) -> Tried | None:
    outcome = Outcome(STATES[trial.state.name], trial.value, trial.intermediate_values, trial.user_attrs)
    return tried(trial.number, trial.params, outcome)
