"""What a night is planned with: whether it can begin at all, what its trials will cost, and what it may start."""

from __future__ import annotations

import shutil
from pathlib import Path

from search import cost_record, plan_machine, plan_study, space
from search.affordable import Left, Purse
from search.config import StudyConfig
from search.errors import SearchError
from search.plan_trials import TrialCosts
from search.survey import Survey
from storage import records
from storage.file import StorageError
from train import room
from train.planning import plan as planning


def refuse(config: StudyConfig, survey: Survey, folder: Path, budget_s: float, night_s: float | None) -> None:
    """Raise SearchError, with the minimum and the next command, for a budget or a night that cannot hold the first
    trial, or a deadline that has passed. A study in which a trial has begun is left alone: it ends with a sentence."""
    if any((folder / "runs").glob("[0-9]*")):
        return
    if any(path.is_file() for path in (folder, *folder.parents)):
        return  # the study's folder cannot be made, which is told where it is
    found = costs(config, survey, folder, Left(budget_s, _spent_s(folder / "study.db"), night_s))
    if found and found.refusal:
        raise SearchError(f"{config.path}: {found.refusal}")


def costs(config: StudyConfig, survey: Survey, folder: Path, left: Left) -> TrialCosts | None:
    """What trials cost on this machine, by the plan and those that ended; None where none fits the memory."""
    machine = plan_machine.machine(config.machine, None, None)
    half = len(survey.search_half)
    so_far = plan_study.SoFar(
        runs=folder / "runs",
        spent_s=left.spent_s,
        budget_s=left.limit_s,
        tonight_s=left.night_s,
        search_half=half,
        race_s=left.kept_s,
    )
    return plan_study.trials(config, survey.base, machine, so_far)


def purse(
    config: StudyConfig,
    survey: Survey,
    runs: Path,
    known: cost_record.Known,
    left: Left,
    *,
    load: bool,
) -> Purse:
    """What the study may start with what is left.

    `known` keeps what the trials that ended took; `load`: a worker has to be started for the next one."""
    speed = planning.speed_of(survey.card.name) if survey.card else None
    prices = cost_record.prices(config, survey.base, speed, runs, known)
    return Purse(prices, lambda params: space.recipe(config, params, survey), left, load)


def check_disk(folder: Path, planned: planning.Plan) -> None:
    """Raise SearchError where the study's folder has no room for the files of a trial."""
    free = shutil.disk_usage(folder).free
    if free >= planned.disk_bytes:
        return
    needed, more = room.spelled(planned.disk_bytes), room.more(planned.disk_bytes, free)
    raise SearchError(
        f"the next trial may need {needed} on the disk of {folder}, {more} more than are free: make room, then run "
        "`nightshift start` again, which goes on from here"
    )


def _spent_s(database: Path) -> float:
    """GPU-seconds; none of a database that is not whole, which is told when it is opened."""
    try:
        return records.read(database).spent_s if database.exists() else 0.0
    except StorageError:
        return 0.0
