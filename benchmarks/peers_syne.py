"""Peers of `make bench-search` made of Syne Tune: its ASHA, ASHACQR and BOHB.

The schedulers are Syne Tune's own; the loop around them is ours, with one worker, and calls them in the order of
syne_tune/tuner.py (`_schedule_trial`, `_update_running_trials`): suggest, on_trial_add, on_trial_result at every rung,
on_trial_remove after a decision to stop. At `max_t` every trial is stopped so, too.

Set up as syne-tune 0.16.0 documents in syne_tune/optimizer/baselines.py: one bracket, a grace period of one unit,
`max_t` the whole trial, `points_to_evaluate` for the hand-picked recipes. Its spaces know no conditions: parameters
that do not matter are drawn and left out of the recipe, and a hand-picked recipe has them in the middle.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sklearn
from peers_optuna import STEPS
from search_record import Params
from syne_tune import config_space as domains
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHA, ASHACQR, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision

from search.config import StudyConfig
from search.parameters import Choice, FloatRange, IntRange, Parameter, Value, condition

logging.getLogger("syne_tune").setLevel(logging.ERROR)
sklearn.set_config(skip_parameter_validation=True)  # ASHACQR fits five ensembles a suggestion: the same, a bit quicker

METRIC, TIME = "value", "quarters"


def domain(parameter: Parameter) -> Any:
    """Syne Tune's word for a range."""
    if isinstance(parameter, Choice):
        return domains.choice(list(parameter.choices))
    if isinstance(parameter, IntRange):
        step = parameter.step or 1
        size = (parameter.high - parameter.low) // step + 1
        return domains.finrange(parameter.low, parameter.high, size, cast_int=True)
    assert isinstance(parameter, FloatRange)
    assert parameter.step is None, "no range of the rehearsal is a grid of fractions"
    return (domains.loguniform if parameter.log else domains.uniform)(parameter.low, parameter.high)


def middle(parameter: Parameter) -> Value:
    """The value in the middle of a range, for what a hand-picked recipe does not name."""
    if isinstance(parameter, Choice):
        return parameter.choices[len(parameter.choices) // 2]
    if isinstance(parameter, IntRange):
        step = parameter.step or 1
        return parameter.low + (parameter.high - parameter.low) // step // 2 * step
    return math.sqrt(parameter.low * parameter.high) if parameter.log else (parameter.low + parameter.high) / 2


def relevant(config: StudyConfig, drawn: dict[str, Any]) -> Params:
    """The parameters that matter, in Python's own types."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in drawn.items()}
    needed = {name: condition(name) for name in config.space}
    return {name: plain[name] for name, on in needed.items() if on is None or on.holds(plain.get(on.on))}


class Syne:
    """One worker's side of a `Tuner.run`."""

    one_metric = True

    def __init__(self, config: StudyConfig, seed: int, *, priors: bool, scheduler: Any, **settings: Any) -> None:
        self.config = config
        np.random.seed(seed)  # its domains draw from numpy's global generator
        points = [
            {name: prior.params.get(name, middle(p)) for name, p in config.space.items()} for prior in config.prior
        ]
        self.scheduler = scheduler(
            {name: domain(parameter) for name, parameter in config.space.items()},
            metric=METRIC,
            time_attr=TIME,
            max_t=STEPS[1.0],
            do_minimize=False,
            random_seed=seed,
            points_to_evaluate=points if priors else None,
            **settings,
        )
        self.number = 0

    def suggest(self) -> Params:
        """The next trial's parameters."""
        suggestion = self.scheduler.suggest()
        self.trial = Trial(self.number, suggestion.config, datetime.datetime.fromtimestamp(0))
        self.number += 1
        self.scheduler.on_trial_add(self.trial)
        return relevant(self.config, suggestion.config)

    def report(self, fraction: float, value: float) -> bool:
        """Whether the trial may go on after this rung."""
        decision = self.scheduler.on_trial_result(self.trial, {METRIC: value, TIME: STEPS[fraction]})
        return bool(decision == SchedulerDecision.CONTINUE)

    def stopped(self) -> None:
        """The trial was stopped at a rung."""
        self.scheduler.on_trial_remove(self.trial)

    def complete(self, value: float) -> None:
        """The last result, at which the scheduler ends every trial."""
        assert not self.report(1.0, value)
        self.stopped()

    def failed(self) -> None:
        """The trial failed."""
        self.scheduler.on_trial_error(self.trial)


asha_3: Callable[..., Syne] = partial(Syne, scheduler=ASHA)  # its default factor; between 1/4 and the end is no rung
asha_2: Callable[..., Syne] = partial(Syne, scheduler=ASHA, reduction_factor=2)
cqr_3: Callable[..., Syne] = partial(Syne, scheduler=ASHACQR)
cqr_2: Callable[..., Syne] = partial(Syne, scheduler=ASHACQR, reduction_factor=2)
# With its default, as many points for either density as there are parameters, BOHB of 14 parameters needs over 100
# trials before it models anything (KernelDensityEstimator._check_data_shape_and_good_size); one more point, and 30 do.
bohb_3: Callable[..., Syne] = partial(Syne, scheduler=BOHB)
bohb_3_soon: Callable[..., Syne] = partial(Syne, scheduler=BOHB, num_min_data_points=15)
bohb_2_soon: Callable[..., Syne] = partial(Syne, scheduler=BOHB, num_min_data_points=15, reduction_factor=2)
