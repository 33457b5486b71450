"""Optuna's storage on the study database, and its trials as frozen records: FrozenTrial is parsed here alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optuna import Study
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import inspect

from storage.db import (
    PLUGIN,
    StorageError,
    open_database,
    read_only_engine,
    read_only_url,
    read_write_url,
    storage_errors,
)

State = Literal["waiting", "running", "complete", "pruned", "failed"]
Value = float | int | str | bool | None

OPTUNA_SCHEMA = "v3.2.0.a"  # of the pinned Optuna; asking Optuna itself takes 0.3 s

_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as it was when read.

    `params` of a waiting trial are those it is queued with. `rungs` maps a reported step to its value. A constraint
    above 0 is broken. Times are in UTC.
    """

    number: int
    trial_id: int
    state: State
    value: float | None
    params: Mapping[str, Value]
    user_attrs: Mapping[str, Any]
    rungs: Mapping[int, float]
    constraints: Mapping[str, float]
    started: datetime | None
    ended: datetime | None

    @property
    def finished(self) -> bool:
        """Whether Optuna lets nothing of the trial change any more."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def feasible(self) -> bool:
        """Whether no constraint is broken."""
        return all(value <= 0 for value in self.constraints.values())


class StudyStorage(RDBStorage):
    """Optuna's storage with our SQLite settings, which it also has after a journey to a spawned process.

    It does not compare versions, not to fail on its way there: `open_storage` and `open_read_only` do.
    """

    def __init__(self, url: str, *, make_tables: bool) -> None:
        super().__init__(
            url,
            engine_kwargs={"plugins": [PLUGIN]},
            skip_compatibility_check=True,
            skip_table_creation=not make_tables,
        )


def open_storage(path: Path) -> StudyStorage:
    """Optuna's storage on the study database at `path`; makes the file, our tables and Optuna's where they are missing.

    Raises StorageError as `storage.db.open_database` does, and where Optuna's tables are of another version.
    """
    open_database(path).dispose()
    return _open(path, read_write_url(path), make_tables=True)


def open_read_only(path: Path) -> StudyStorage:
    """Optuna's storage through which nothing can be written; works while another process writes.

    Raises StorageError where there is no database, or one of another version.
    """
    reader = read_only_engine(path)
    with storage_errors(path), reader.connect() as connection:
        made = inspect(connection).has_table("alembic_version")  # Optuna's last step, and it fills it
        if not made or not connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one():
            raise StorageError(
                f"{path} has no room for trials yet: its making was interrupted. Run `nightshift start`."
            )
    reader.dispose()
    return _open(path, read_only_url(path), make_tables=False)


def records(study: Study) -> list[TrialRecord]:
    """Every trial of the study, by number."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False)]


def read_records(storage: BaseStorage, study_name: str) -> list[TrialRecord]:
    """Every trial of the study of that name, by number; raises KeyError where there is no such study."""
    study_id = storage.get_study_id_from_name(study_name)
    return [_record(trial) for trial in storage.get_all_trials(study_id, deepcopy=False)]


def _record(trial: FrozenTrial) -> TrialRecord:
    state = _STATES[trial.state]
    queued = trial.system_attrs.get("fixed_params", {}) if state == "waiting" else {}
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,
        state=state,
        value=trial.values[0] if trial.values else None,
        params={**queued, **trial.params},
        user_attrs=dict(trial.user_attrs),
        rungs=dict(sorted(trial.intermediate_values.items())),
        constraints=dict(trial.constraints),
        started=_utc(trial.datetime_start),
        ended=_utc(trial.datetime_complete),
    )


def _utc(local: datetime | None) -> datetime | None:
    """Optuna writes the local time without its zone."""
    return None if local is None else local.astimezone(UTC)


def _open(path: Path, url: str, *, make_tables: bool) -> StudyStorage:
    with storage_errors(path):
        storage = StudyStorage(url, make_tables=make_tables)
        _require_optuna_schema(path, storage)
    return storage


def _require_optuna_schema(path: Path, storage: RDBStorage) -> None:
    with storage.engine.connect() as connection:
        if connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == OPTUNA_SCHEMA:
            return
    found, known = storage.get_current_version(), storage.get_head_version()
    if found == known:
        return
    storage.engine.dispose()
    older = found in storage.get_all_versions()
    cure = "Install the newer Optuna: pip install -U optuna"
    if older:
        cure = f"Copy the file, then upgrade it: optuna storage upgrade --storage {read_write_url(path)!r}"
    raise StorageError(
        f"{path} holds Optuna's tables of version {found}, and this Optuna knows {known}. "
        f"The file was left untouched. {cure}"
    )
