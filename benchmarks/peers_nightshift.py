"""Nightshift's own search for `make bench-search`: the study that the service works on (search.study), on Optuna's
storage in memory, with its sampler, its pruner and its ranking of the trials.

The loop around it, with its database on disk, ledger and processes, is not a part of this; nor is the race that asks
bad trials fewer prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import optuna
from search_record import Params

from search import policy
from search.config import PrunerSection, StudyConfig
from search.ranking import ranked
from search.study import OpenTrial, Study, pruner

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class Nightshift:
    """A study, asked and told as search.loop does."""

    one_metric = False
    trial: OpenTrial

    def __init__(self, config: StudyConfig, section: PrunerSection, seed: int, *, priors: bool) -> None:
        study = optuna.create_study(direction="maximize", pruner=pruner(section))
        for prior in config.prior if priors else ():
            study.enqueue_trial(dict(prior.params), user_attrs={"prior": prior.name})
        seeded = config.study.model_copy(update={"seed": seed})
        self.config = config.model_copy(update={"study": seeded})
        self.study = Study(study, self.config)

    def suggest(self) -> Params:
        """The next trial's parameters."""
        self.trial = self.study.next_trial()
        return self.trial.params

    def report(self, fraction: float, value: float) -> bool:
        """Whether the trial may go on after this rung."""
        return self.study.report(self.trial, fraction, -value)

    def stopped(self) -> None:
        """The trial was stopped at a rung."""
        self.study.prune(self.trial)

    def complete(self, value: float) -> None:
        """The trial's final value."""
        self.study.complete(self.trial, value)

    def expected(self) -> list[float]:
        """What each complete trial is worth, in the order that they ended in (search.ranking)."""
        ranks = {one.record.number: one.expected for one in ranked(self.config, self.study.records())}
        return [ranks[number] for number in sorted(ranks)]

    def failed(self) -> None:
        """The trial failed."""
        self.study.fail(self.trial, "its loss is not finite")


class Blank(Nightshift):
    """The same, with nothing believed beforehand (search.beliefs): what the prior mean is worth."""

    def suggest(self) -> Params:
        """The next trial's parameters."""
        with _nothing_believed():
            return super().suggest()

    def expected(self) -> list[float]:
        """What each complete trial is worth."""
        with _nothing_believed():
            return super().expected()


def _nothing_believed() -> AbstractContextManager[object]:
    return patch.object(policy, "promises", lambda _, places: np.zeros(places.shape))


def _with(section: PrunerSection, kind: type[Nightshift] = Nightshift) -> Callable[..., Nightshift]:
    def made(config: StudyConfig, seed: int, *, priors: bool) -> Nightshift:
        return kind(config, section, seed, priors=priors)

    return made


PRESET = PrunerSection(kind="percentile", percentile=70.0, startup_trials=6)
never = _with(PrunerSection(kind="none"))
percentile = _with(PRESET)
blank = _with(PRESET, Blank)
hopeless = _with(PrunerSection(kind="percentile", percentile=90.0, startup_trials=6))
median = _with(PrunerSection(kind="median"))
