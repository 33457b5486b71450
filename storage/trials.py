"""Optuna's storage on the study database, and its trials as frozen records: FrozenTrial is parsed here alone."""

from __future__ import annotations

from pathlib import Path

from optuna import Study
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, inspect

from storage.db import (
    PLUGIN,
    StorageError,
    open_database,
    read_only_engine,
    read_only_url,
    read_write_url,
    storage_errors,
)
from storage.records import OPTUNA_SCHEMA, STATES, TrialRecord, unfinished, utc

__all__ = ["OPTUNA_SCHEMA", "StudyStorage", "TrialRecord", "open_read_only", "open_storage", "read_records", "records"]


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
        if not _is_made(connection):
            raise unfinished(path)
    reader.dispose()
    return _open(path, read_only_url(path), make_tables=False)


def _is_made(connection: Connection) -> bool:
    """Whether Optuna's tables are there; it makes this one last, and then fills it."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return bool(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one())


def records(study: Study) -> list[TrialRecord]:
    """Every trial of the study, by number."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False)]


def read_records(storage: BaseStorage, study_name: str) -> list[TrialRecord]:
    """Every trial of the study of that name, by number; raises KeyError where there is no such study."""
    study_id = storage.get_study_id_from_name(study_name)
    return [_record(trial) for trial in storage.get_all_trials(study_id, deepcopy=False)]


def _record(trial: FrozenTrial) -> TrialRecord:
    state = STATES[trial.state.name]
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
        started=utc(trial.datetime_start),
        ended=utc(trial.datetime_complete),
    )


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
