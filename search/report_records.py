"""Everything that a report is made of, read from a study's folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from objectives.score import Score
from search import config, freeze_file, report_answers, report_foretold, view
from search.config import StudyConfig
from search.errors import ConfigError, FreezeDiffers, SearchError
from search.report_answers import Answers
from search.report_foretold import Foretold
from search.report_run import Problems, RunRecord, read_run, score_in
from search.view import StudyView
from storage import db, trials
from storage.ledger import Attempt, Ledger
from storage.records import TrialRecord
from train import lock
from train.rundir import Json, RunDir, brief, read_json

LEAST_TRIALS = 6  # complete ones; an importance from fewer says nothing
Held = TypeVar("Held")


@dataclass(frozen=True)
class Records:
    """Everything that the report is made of. `problems` are those of files that another version wrote."""

    study: StudyView
    config: StudyConfig | None
    records: Sequence[TrialRecord]
    attempts: Sequence[Attempt]
    spent_by_cause: Mapping[str, float]
    importances: Mapping[str, float]
    foretold: Sequence[Foretold]
    base: Score | None  # of the base model, on the search's prompts
    best: RunRecord | None
    frozen: Json | None
    lock: Json | None  # what was frozen beside final_run.py
    frozen_problem: str  # why final_run.py cannot be read, where it cannot
    final: RunRecord | None
    answers: Answers
    problems: Sequence[str]

    @property
    def run(self) -> RunRecord | None:
        """The run that a submission is about: the final one, and before there is one, that of the best trial."""
        return self.final or self.best

    @property
    def frozen_anew(self) -> bool:
        """Whether final_run.py is not the file that the final run was made with."""
        if self.frozen is None or self.final is None:
            return False
        return bool(self.frozen.get("recipe_sha256") != self.final.recipe.digest)


def gather(folder: Path) -> Records:
    """Read everything about the study in `folder`, through connections that cannot write.

    Raises SearchError where there is no study, one that another version wrote, or answers that cannot be read;
    StorageError where the database cannot be read.
    """
    answers = report_answers.read(folder)
    study = _of_this_version(folder, view.read)
    records, importances = _of_this_version(folder, _optuna)
    attempts, spent = _of_this_version(folder, _ledger)
    problems = Problems()
    loaded, (frozen, frozen_problem) = _config(folder), _frozen(folder)
    device = loaded.machine.device if loaded else None
    runs = folder / "runs"
    best = read_run(RunDir(runs / f"{study.best.number:03d}"), device, problems) if study.best else None
    base = problems.tolerate("runs/base/result.json", lambda: read_json(RunDir(runs / "base").result), None)
    return Records(
        study=study,
        config=loaded,
        records=records,
        attempts=attempts,
        spent_by_cause=spent,
        importances=importances,
        foretold=problems.tolerate("runs", lambda: report_foretold.foretold(folder, loaded, best, records), []),
        base=score_in(base, "runs/base", problems),
        best=best,
        frozen=frozen,
        lock=problems.tolerate(lock.FILE, lambda: read_json(folder / lock.FILE), None),
        frozen_problem=frozen_problem,
        final=read_run(RunDir(folder / "final"), device, problems),
        answers=answers,
        problems=list(dict.fromkeys(problems)),
    )


def _of_this_version(folder: Path, read: Callable[[Path], Held]) -> Held:
    """What `read` makes of a study. Without it there is no report: another version's is refused."""
    try:
        return read(folder)
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SearchError(
            f"{folder}: the records of this study are not what this version writes ({brief(error)}); "
            "make its report with the version that made the study, or put back the files that were changed"
        ) from error


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
    """By PED-ANOVA; empty where there are too few complete trials, or all scores are the same."""
    import optuna

    study = optuna.load_study(study_name=name, storage=storage)
    scores = [t.value for t in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])]
    if len(scores) < LEAST_TRIALS or len(set(scores)) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about parameters that few trials have
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(study, evaluator=evaluator)
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
    path = folder / freeze_file.FILE
    if not path.exists():
        return None, ""
    try:
        return freeze_file.constant(path), ""
    except FreezeDiffers as error:
        return None, str(error)
