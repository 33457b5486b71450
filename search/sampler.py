"""Optuna's sampler of a study: recipes at random for a start, then search.policy's.

Nothing is remembered from one trial to the next: a suggestion follows from the trials that ended before it, the
study's seed and the trial's number. A study that was killed after any trial so suggests what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search.points import Params, Points
from search.policy import Fits, Policy, Tried

STARTUP_TRIALS = 3  # that ended, hand-picked ones included, before anything is modelled
FITTING = 50  # recipes at random, at most, to find one that fits
FAILED = (0.0, 64)  # a trial that failed counts as one that followed none of so many prompts
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class PolicySampler(BaseSampler):
    """Suggests all parameters of a trial at once. `distributions` are those of the whole space, conditional ones
    included; `fits` says whether a recipe fits the machine: one that does not is passed over."""

    def __init__(
        self, points: Points, distributions: Mapping[str, BaseDistribution], seed: Sequence[int], fits: Fits
    ) -> None:
        self._points = points
        self._distributions = distributions
        self._seed = seed
        self._fits = fits

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The recipe of this trial, around what a hand-picked one has fixed."""
        fixed: Mapping[str, Any] = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        before = study.get_trials(deepcopy=False, states=ENDED)
        tried = [told for each in before if (told := _tried(each))]
        if sum(bool(each.bits or each.score) for each in tried) < STARTUP_TRIALS:
            return self._at_random(fixed)
        return Policy(self._points, tried).new(self._seed, fixed, self._fits)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """For what is not in the space, which a study has nothing of."""
        return RandomSampler(seed=0).sample_independent(study, trial, param_name, param_distribution)

    def _at_random(self, fixed: Mapping[str, Any]) -> Params:
        rng = np.random.default_rng([*self._seed])
        places = self._points.with_fixed(self._points.draw(FITTING, rng), fixed)
        found = [self._points.params(place) for place in places]
        return next((params for params in found if self._fits(params)), found[0])


def _tried(trial: FrozenTrial) -> Tried | None:
    """What a trial has shown; None for a suggestion that did not fit."""
    if "infeasible" in trial.user_attrs:
        return None
    bits = {step / 100: -value for step, value in trial.intermediate_values.items()}
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return Tried(trial.number, trial.params, bits, (trial.value, trial.user_attrs.get("prompts_asked", FAILED[1])))
    return Tried(trial.number, trial.params, bits, FAILED if trial.state == TrialState.FAIL else None)
