"""The Optuna study: what may not change, which recipes come first, the sampler, the pruner, and trials re-adopted.

Optuna is a view; the RunDirs and the ledger are the truth. Every method may be repeated after a kill: a study that
is opened again holds each prior once, and a trial that was running keeps its number.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from search import space, split
from search.affordable import NothingAffordable
from search.config import PrunerSection, StudyConfig
from search.errors import StudyChanged
from search.parameters import Value
from search.points import Params, Points
from search.policy import Fits
from search.sampler import SUGGESTED, Excess, PolicySampler
from search.survey import Survey
from search.transfer import PREFIX
from storage import trials
from storage.records import TrialRecord
from train.planning.plan import SourceFacts
from train.recipe import Source

IDENTITY = "nightshift:identity"
SMALLER = "smaller"  # user attribute of a trial that took the place of one for which the budget had too little left

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class OpenTrial:
    """A trial that is being worked on."""

    number: int
    params: dict[str, Value]
    prior: str
    handle: optuna.Trial


class Study:
    """One study in the database, opened for work by the one service that holds it."""

    def __init__(self, study: optuna.Study, config: StudyConfig) -> None:
        self.optuna = study
        self._config = config
        self._points = Points(config.space, config.recipe)
        self._finished: dict[int, TrialRecord] = {}

    @classmethod
    def open(
        cls,
        storage: optuna.storages.BaseStorage,
        config: StudyConfig,
        survey: Survey,
        forget: Callable[[], None] = lambda: None,
        earlier: Mapping[str, dict[str, Value]] | None = None,
    ) -> Study:
        """Create the study or load it, refuse one whose space, direction, model or data differ, enqueue its priors and
        then what `earlier` has by name (see search.transfer).

        Until a trial begins, all of that may change: the study is made anew, once `forget` has removed what was scored
        for the old one (before the database changes, so that a kill between the two loses nothing).
        """
        now, study = identity(config, survey), _created(storage, config)
        changed = study.user_attrs.get(IDENTITY, now) != now
        if (changed or _from_elsewhere(study, earlier or {})) and not _begun(study):
            if changed:
                forget()
            optuna.delete_study(study_name=config.study.name, storage=storage)  # it holds nothing but queued priors
            study = _created(storage, config)
        opened = cls(study, config)
        opened._check_identity(now)
        with _experimental():  # set without a look, which would read the notes of all trials
            study.set_metric_names(["IFEval prompts followed, strict"])
        opened._enqueue_priors(earlier or {})
        return opened

    def next_trial(self, fits: Fits = lambda _: True, excess: Excess = lambda _: 0.0) -> OpenTrial:
        """The interrupted trial with the lowest number, or a new one from the queue or the sampler.

        Recipes with an `excess` of seconds over what is left of the budget stay in the queue, and the sampler passes
        over them, and over those that do not fit; raises NothingAffordable where nothing is left. The sampler is made
        anew for every trial, from the study's seed and the trial's number, so that a study which was killed suggests
        what an uninterrupted one does.
        """
        trials = self.optuna.get_trials(deepcopy=False)
        if running := next((t for t in trials if t.state == TrialState.RUNNING), None):
            self.optuna.sampler = self._sampler(running.number, fits, excess)
            handle = optuna.Trial(self.optuna, running._trial_id)
        else:
            handle = optuna.Trial(self.optuna, self._begin(trials, fits, excess))
        params = space.suggest(handle, self._config)
        return OpenTrial(handle.number, params, str(handle.user_attrs.get("prior", "")), handle)

    def _begin(self, trials: Sequence[FrozenTrial], fits: Fits, excess: Excess) -> int:
        """Set the first trial of the queue running that may start, else a new one; returns its id."""
        passed_over = False
        for queued in (*(t for t in trials if t.state == TrialState.WAITING), None):
            self.optuna.sampler = sampler = self._sampler(queued.number if queued else len(trials), fits, excess)
            found = sampler.suggest(self.optuna, queued.system_attrs.get("fixed_params", {}) if queued else {})
            if found:
                return self._run(queued, found.params, {SMALLER: True} if found.smaller or passed_over else {})
            passed_over = True
        raise NothingAffordable

    def _run(self, queued: FrozenTrial | None, params: Params, attributes: Mapping[str, Any]) -> int:
        """In one write, once all else is written down: a kill before it leaves the queue as it was."""
        storage, suggested = self.optuna._storage, {SUGGESTED: params}
        if queued is None:
            running = optuna.trial.create_trial(
                state=TrialState.RUNNING, user_attrs=dict(attributes), system_attrs=dict(suggested)
            )
            return storage.create_new_trial(self.optuna._study_id, template_trial=running)
        for key, value in attributes.items():
            storage.set_trial_user_attr(queued._trial_id, key, value)
        storage.set_trial_system_attr(queued._trial_id, SUGGESTED, params)
        storage.set_trial_state_values(queued._trial_id, state=TrialState.RUNNING)
        return queued._trial_id

    def _sampler(self, number: int, fits: Fits, excess: Excess) -> PolicySampler:
        seed = (self._config.study.seed, number)
        return PolicySampler(self._points, space.optuna_distributions(self._config), seed, fits, excess)

    def report(self, trial: OpenTrial, fraction: float, bits_per_byte: float) -> bool:
        """Record a rung and say whether the trial may go on. Idempotent: a rung told twice keeps its first value.

        Optuna maximizes, so the rung is reported as minus the bits per byte; steps are percent of the horizon.
        """
        step = round(100 * fraction)
        if step not in self.optuna._storage.get_trial(trial.handle._trial_id).intermediate_values:
            trial.handle.report(-bits_per_byte, step)
        return not trial.handle.should_prune()

    def records(self) -> list[TrialRecord]:
        """Every trial so far, by number."""
        return trials.records(self.optuna, self._finished)

    def annotate(self, trial: OpenTrial, attributes: Mapping[str, Any], note: str) -> None:
        """Attach readable user attributes and a note, both shown by the dashboard."""
        trials.annotate(self.optuna, trial.handle, attributes, note)

    def note(self, text: str) -> None:
        """Have the dashboard show this Markdown with the study."""
        trials.note(self.optuna, text)

    def complete(self, trial: OpenTrial, value: float) -> None:
        """Tell the value of a scored trial: prompt-level strict accuracy on the reference set.

        It is estimated where the trial was ended as behind (see objectives.race).
        """
        self.optuna.tell(trial.number, value, state=TrialState.COMPLETE)

    def prune(self, trial: OpenTrial) -> None:
        """End a trial that a rung stopped, without a value: `tell` would take its last rung for a score."""
        self.optuna._storage.set_trial_state_values(trial.handle._trial_id, TrialState.PRUNED)

    def fail(self, trial: OpenTrial, reason: str) -> None:
        """End a trial that cannot be finished; it is recorded with its reason and never tried again."""
        trial.handle.set_user_attr("reason", reason)
        self.optuna.tell(trial.number, state=TrialState.FAIL)

    def constrain(self, trial: OpenTrial, excess: float) -> None:
        """Tell the sampler how far the trial's peak memory exceeds the limit, as a share of it (0 or less: it fits)."""
        if "memory" not in trial.handle.constraints:
            trial.handle.set_constraint("memory", excess)

    def set_infeasible(self, trial: OpenTrial, reason: str) -> None:
        """End a trial that does not fit. It is no failure: the constraint teaches the sampler where not to look."""
        trial.handle.set_user_attr("infeasible", reason)
        self.prune(trial)

    def _check_identity(self, now: dict[str, Any]) -> None:
        before = self.optuna.user_attrs.get(IDENTITY)
        if before is None:
            self.optuna.set_user_attr(IDENTITY, now)
            return
        if before != now or self.optuna.direction != optuna.study.StudyDirection.MAXIMIZE:
            raise StudyChanged(
                f"{self._config.path}: this differs from the study {self._config.study.name!r} in its database, and "
                "trials of both could not be compared. Undo the change, or give the study a new name:\n"
                + _difference(before, now)
            )

    def _enqueue_priors(self, earlier: Mapping[str, dict[str, Value]]) -> None:
        present = {t.user_attrs.get("prior") for t in self.optuna.get_trials(deepcopy=False)}
        for name, params in ({prior.name: prior.params for prior in self._config.prior} | dict(earlier)).items():
            if name not in present:
                self.optuna.enqueue_trial(dict(params), user_attrs={"prior": name})


def _created(storage: optuna.storages.BaseStorage, config: StudyConfig) -> optuna.Study:
    return optuna.create_study(
        storage=storage,
        study_name=config.study.name,
        direction="maximize",
        pruner=pruner(config.pruner),
        load_if_exists=True,
    )


def _begun(study: optuna.Study) -> bool:
    return any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def _from_elsewhere(study: optuna.Study, earlier: Mapping[str, dict[str, Value]]) -> bool:
    """Whether a recipe is queued that came from another study, and is none of those."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    queued = {str(t.user_attrs.get("prior", "")): t.system_attrs.get("fixed_params") for t in waiting}
    return any(name.startswith(PREFIX) and params != earlier.get(name) for name, params in queued.items())


@contextmanager
def _experimental() -> Iterator[None]:
    """Without the warning that a part of Optuna may change: its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def pruner(section: PrunerSection) -> optuna.pruners.BasePruner:
    """Optuna's pruner of that kind."""
    if section.kind == "none":
        return optuna.pruners.NopPruner()
    percentile = 50.0 if section.kind == "median" else section.percentile
    return optuna.pruners.PercentilePruner(percentile, n_startup_trials=section.startup_trials)


def identity(config: StudyConfig, survey: Survey) -> dict[str, Any]:
    """What has to stay the same for the trials of one study to be comparable; contents, not paths."""
    facts = {
        "direction": "maximize",
        "seed": config.study.seed,
        "rungs": list(config.study.rungs),
        "base": survey.base.sha256,
        "data": {source.name: _data(source, survey.sources[source.name]) for source in config.data},
        "probe": config.probe.model_dump(mode="json"),
        "prompts": survey.prompts_sha256,
        "search_half": split.digest(survey.search_half),
        "objective": config.objective.model_dump(mode="json", exclude={"prompts"}),
        "recipe": dict(config.recipe),
        "space": space.distributions(config),
    }
    as_stored: dict[str, Any] = json.loads(json.dumps(facts))  # tuples are lists in the database
    return as_stored


def _data(source: Source, facts: SourceFacts) -> dict[str, Any]:
    """What decides a source's rows, and its weight."""
    settings = source.model_dump(mode="json", exclude={"name", "path", "hub", "revision"})
    settings["filters"]["overlap_with"] = sorted(str(prompts.sha256) for prompts in facts.overlap_with)
    return {**settings, "sha256": facts.sha256}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = (_flat(dict(value)) for value in (before, now))
    lines = difflib.unified_diff(old, new, "study in the database", "study.toml", lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith("@@"))


def _flat(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict) and value:
        return [line for key in sorted(value) for line in _flat(value[key], f"{name}.{key}" if name else key)]
    return [f"{name} = {json.dumps(value, sort_keys=True)}"]
