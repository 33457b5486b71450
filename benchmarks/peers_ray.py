"""A peer of `make bench-search` made of Ray Tune: its ASHAScheduler with its OptunaSearch.

Both objects are Ray's own; the loop around them is ours, because a real `Tuner.fit` takes seconds of wall time a trial.
It calls them in the order of ray/tune/execution/tune_controller.py (`_process_trial_result`, `stop_trial`) with one
worker: the scheduler hears of a result first, the searcher only where the trial goes on; of a trial that is stopped the
searcher hears as of a complete one, with its last result.

Set up as ray 2.60.0 documents: ASHAScheduler as in docs.ray.io, tune/api/schedulers (one bracket, a grace period of one
unit, `max_t` the whole trial); OptunaSearch with a define-by-run function, for the conditional parameters, and
`points_to_evaluate` (docstring of ray.tune.search.optuna.OptunaSearch).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from peers_optuna import STEPS
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from search_record import Params

from search import space
from search.config import StudyConfig

METRIC, TIME = "value", "quarters"


def scheduler(reduction_factor: float) -> ASHAScheduler:
    """ASHA over the rungs, counted in quarters of a trial."""
    return ASHAScheduler(time_attr=TIME, metric=METRIC, mode="max", max_t=STEPS[1.0], reduction_factor=reduction_factor)


def searcher(config: StudyConfig, seed: int, *, priors: bool) -> OptunaSearch:
    """OptunaSearch with its default sampler."""
    points = [dict(prior.params) for prior in config.prior] if priors else None

    def define(trial: optuna.Trial) -> None:
        space.suggest(trial, config)

    return OptunaSearch(define, metric=METRIC, mode="max", points_to_evaluate=points, seed=seed)


class Ray:
    """One worker's side of a `Tuner.fit`."""

    one_metric = True

    def __init__(self, config: StudyConfig, seed: int, *, priors: bool, reduction_factor: float) -> None:
        self.scheduler = scheduler(reduction_factor)
        self.searcher = searcher(config, seed, priors=priors)
        self.number = 0

    def suggest(self) -> Params:
        """The next trial's parameters."""
        self.trial = Trial("night", trial_id=f"{self.number:05d}", stub=True)
        self.number += 1
        self.reports = 0
        params = self.searcher.suggest(self.trial.trial_id)
        self.scheduler.on_trial_add(None, self.trial)
        assert params is not None
        return params

    def report(self, fraction: float, value: float) -> bool:
        """Whether the trial may go on after this rung."""
        self.reports += 1
        self.last: dict[str, Any] = {METRIC: value, TIME: STEPS[fraction], "training_iteration": self.reports}
        decision = self.scheduler.on_trial_result(None, self.trial, self.last)
        if decision == TrialScheduler.STOP:
            return False
        self.searcher.on_trial_result(self.trial.trial_id, self.last)
        return True

    def stopped(self) -> None:
        """The trial was stopped at a rung."""
        self.scheduler.on_trial_complete(None, self.trial, self.last)
        self.searcher.on_trial_complete(self.trial.trial_id, result=self.last)

    def complete(self, value: float) -> None:
        """The last result, at which the scheduler ends every trial."""
        self.report(1.0, value)
        self.stopped()

    def failed(self) -> None:
        """The trial failed."""
        self.scheduler.on_trial_error(None, self.trial)
        self.searcher.on_trial_complete(self.trial.trial_id, error=True)


asha_4: Callable[..., Ray] = partial(Ray, reduction_factor=4)  # its default: rungs at 1/4 and at the end
asha_2: Callable[..., Ray] = partial(Ray, reduction_factor=2)
