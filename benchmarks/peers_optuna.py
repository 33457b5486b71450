"""Peers of `make bench-search` made of Optuna, in its ask-and-tell form, in memory; and random search, which is its
RandomSampler without a pruner.

Set up as the docstrings of optuna 5.0.0 advise:
    optuna.create_study             TPESampler and MedianPruner are what it makes when neither is named
    optuna.pruners.HyperbandPruner  min_resource, max_resource and reduction_factor = 3 of its example, max_resource
                                    "should match the maximum iteration steps"; study_name, for reproducible brackets
    optuna.samplers.GPSampler       its defaults; independent sampling of conditional parameters is what it does
    Study.enqueue_trial             the hand-picked recipes, as given: what they do not name is sampled
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from search_record import RUNGS, Params

from search import space
from search.config import StudyConfig

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)

STEPS = {fraction: round(fraction / RUNGS[0]) for fraction in RUNGS}  # quarters of a trial


class Optuna:
    """A study in memory; trials that a pruner stops are told as pruned, as `optimize` does."""

    one_metric = False

    def __init__(self, config: StudyConfig, sampler: BaseSampler, pruner: BasePruner, *, priors: bool) -> None:
        self.config = config
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner, study_name="night")
        for prior in config.prior if priors else ():
            self.study.enqueue_trial(dict(prior.params))

    def suggest(self) -> Params:
        """The next trial's parameters."""
        self.trial = self.study.ask()
        return space.suggest(self.trial, self.config)

    def report(self, fraction: float, value: float) -> bool:
        """Whether the trial may go on after this rung."""
        self.trial.report(value, STEPS[fraction])
        return not self.trial.should_prune()

    def stopped(self) -> None:
        """The trial was stopped at a rung."""
        self.study.tell(self.trial, state=TrialState.PRUNED)

    def complete(self, value: float) -> None:
        """The trial's final value."""
        self.study.tell(self.trial, value)

    def failed(self) -> None:
        """The trial failed."""
        self.study.tell(self.trial, state=TrialState.FAIL)


def _of(sampler: Callable[[int], BaseSampler], pruner: Callable[[], BasePruner]) -> Callable[..., Optuna]:
    def made(config: StudyConfig, seed: int, *, priors: bool) -> Optuna:
        return Optuna(config, sampler(seed), pruner(), priors=priors)

    return made


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _hyperband(reduction_factor: int) -> Callable[[], BasePruner]:
    return lambda: HyperbandPruner(min_resource=1, max_resource=STEPS[1.0], reduction_factor=reduction_factor)


random = _of(lambda seed: RandomSampler(seed=seed), NopPruner)
tpe_median = _of(_tpe, MedianPruner)
tpe_hyperband = _of(_tpe, _hyperband(3))
tpe_hyperband_2 = _of(_tpe, _hyperband(2))
gp = _of(_gp, NopPruner)
gp_median = _of(_gp, MedianPruner)
