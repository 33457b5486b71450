"""Everything that a report is made of, read from a study's folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import config, freeze, view
from search.config import StudyConfig
from search.errors import ConfigError, FreezeDiffers
from search.view import StudyView
from storage import db, trials
from storage.ledger import Attempt, Ledger
from storage.records import TrialRecord
from train.planning import plan
from train.recipe import Recipe, RecipeError
from train.rundir import Json, RunDir, parse_event, read_json

LEAST_TRIALS = 6  # complete ones; an importance from fewer says nothing


@dataclass(frozen=True)
class RunRecord:
    """What one run left behind. `planned` is None where the base model is not there to plan with."""

    recipe: Recipe
    result: Json | None
    events: Sequence[Json]
    planned: plan.Plan | None


@dataclass(frozen=True)
class Records:
    """Everything that the report is made of."""

    study: StudyView
    config: StudyConfig | None
    records: Sequence[TrialRecord]
    attempts: Sequence[Attempt]
    spent_by_cause: Mapping[str, float]
    importances: Mapping[str, float]
    base: Json | None  # result of scoring the base model
    best: RunRecord | None
    frozen: Json | None
    frozen_problem: str  # why final_run.py cannot be read, where it cannot
    final: RunRecord | None
    samples: Sequence[Json]  # of the final run


def gather(folder: Path) -> Records:
    """Read everything about the study in `folder`, through connections that cannot write.

    Raises SearchError where there is no study, StorageError where its database cannot be read.
    """
    study = view.read(folder)
    records, importances = _optuna(folder)
    attempts, spent = _ledger(folder)
    loaded = _config(folder)
    frozen, problem = _frozen(folder)
    final = RunDir(folder / "final")
    return Records(
        study=study,
        config=loaded,
        records=records,
        attempts=attempts,
        spent_by_cause=spent,
        importances=importances,
        base=read_json(RunDir(folder / "runs" / "base").result),
        best=_run(RunDir(folder / "runs" / f"{study.best.number:03d}"), loaded) if study.best else None,
        frozen=frozen,
        frozen_problem=problem,
        final=_run(final, loaded),
        samples=_samples(final.samples),
    )


def _optuna(folder: Path) -> tuple[list[TrialRecord], dict[str, float]]:
    path = folder / "study.db"
    if not path.exists():
        return [], {}
    storage = trials.open_read_only(path)
    try:
        names = [study.study_name for study in storage.get_all_studies()]
        if not names:
            return [], {}
        return trials.read_records(storage, names[0]), _importances(storage, names[0])
    finally:
        storage.engine.dispose()


def _importances(storage: Any, name: str) -> dict[str, float]:
    """Optuna's estimate; empty where there are too few complete trials, or all scores are the same."""
    import optuna

    study = optuna.load_study(study_name=name, storage=storage)
    scores = [t.value for t in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])]
    if len(scores) < LEAST_TRIALS or len(set(scores)) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about parameters that few trials have
            return optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):  # what its evaluators raise where they find nothing to compare
        return {}


def _ledger(folder: Path) -> tuple[list[Attempt], dict[str, float]]:
    path = folder / "study.db"
    if not path.exists():
        return [], {}
    reader = db.read_only_engine(path)
    try:
        ledger = Ledger(reader)
        return ledger.attempts(), ledger.spent_by_cause()
    finally:
        reader.dispose()


def _config(folder: Path) -> StudyConfig | None:
    try:
        return config.load(folder / "study.toml")
    except ConfigError:
        return None


def _frozen(folder: Path) -> tuple[Json | None, str]:
    path = folder / freeze.FILE
    if not path.exists():
        return None, ""
    try:
        return freeze.constant(path), ""
    except FreezeDiffers as error:
        return None, str(error)


def _run(run: RunDir, loaded: StudyConfig | None) -> RunRecord | None:
    if not run.recipe_path.exists():
        return None
    recipe = run.recipe()
    return RunRecord(recipe, read_json(run.result), list(run.read_events()), _planned(recipe, loaded))


def _planned(recipe: Recipe, loaded: StudyConfig | None) -> plan.Plan | None:
    if loaded is None:
        return None
    try:
        facts = plan.inspect_base(recipe.base.model, recipe.base.revision)
        return plan.plan(recipe, facts, loaded.machine.device)
    except (RecipeError, OSError):
        return None


def _samples(path: Path, count: int = 3) -> list[Json]:
    if not path.exists():
        return []
    with open(path, "rb") as file:
        lines = [line for line, _ in zip(file, range(count), strict=False)]
    return [sample for line in lines if (sample := parse_event(line)) is not None]
