"""Optuna's storage on the study database, and its trials as frozen records: FrozenTrial is parsed here alone."""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Connection, inspect

from storage import rows
from storage.db import (
    PLUGIN,
    StorageError,
    open_database,
    read_only_engine,
    read_only_url,
    read_write_url,
    storage_errors,
)
from storage.records import OPTUNA_SCHEMA, STATES, TrialRecord, unfinished

__all__ = [
    "OPTUNA_SCHEMA",
    "StudyStorage",
    "TrialRecord",
    "annotate",
    "note",
    "open_read_only",
    "open_storage",
    "read_records",
    "records",
]

PIECE = 2045  # characters of a note, at most, that optuna-dashboard keeps in one attribute


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

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """As Optuna's, which reads them through its models: tens of objects a trial, 18 s for 10,000 trials."""
        self.get_study_name_from_id(study_id)  # raises KeyError where there is no such study
        where = f"study_id = {study_id} AND (trial_id > {trial_id_greater_than}"
        where += f" OR trial_id IN ({', '.join(map(str, included_trial_ids))}))"
        if states is not None:
            wanted = ", ".join(repr(state.name) for state in TrialState if state in states)
            where += f" AND state IN ({wanted})"
        with self.engine.begin() as connection:
            cursor = connection.connection.cursor()
            return [_frozen(row) for row in rows.trials(lambda sql: cursor.execute(sql).fetchall(), where)]

    def get_all_studies(self) -> list[FrozenStudy]:
        """As Optuna's, without an object for each note: they are kept with the study."""
        with self.engine.begin() as connection:
            found = connection.exec_driver_sql("SELECT study_id, study_name FROM studies ORDER BY study_id").all()
            return [_frozen_study(connection, id_, name) for id_, name in found]

    def annotate(
        self, study_id: int, trial_id: int, attributes: Mapping[str, Any], of_study: Mapping[str, Any]
    ) -> None:
        """Set user attributes of a running trial, and system attributes of its study, in one transaction."""
        with self.engine.begin() as connection:
            self.check_trial_is_updatable(trial_id, self._state(connection, trial_id))
            _set(connection, "study_system_attributes", "study_id", study_id, of_study)
            _set(connection, "trial_user_attributes", "trial_id", trial_id, attributes)

    @staticmethod
    def _state(connection: Connection, trial_id: int) -> TrialState:
        found = connection.exec_driver_sql("SELECT state FROM trials WHERE trial_id = ?", (trial_id,)).scalar()
        if found is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return TrialState[found]


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


def annotate(study: Study, trial: Trial, attributes: Mapping[str, Any], note: str) -> None:
    """Give a running trial user attributes, and the note that optuna-dashboard shows with it.

    In one transaction: each attribute by itself waits for the disk, and optuna-dashboard's own `save_note` reads the
    notes of all trials, twice.
    """
    backend = getattr(study._storage, "_backend", study._storage)  # which Optuna wraps
    if isinstance(backend, StudyStorage):
        backend.annotate(study._study_id, trial._trial_id, attributes, _pieces(trial._trial_id, note))
        return
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    for key, value in _pieces(trial._trial_id, note).items():
        study._storage.set_study_system_attr(study._study_id, key, value)


def note(study: Study, text: str) -> None:
    """Give the study itself a note; of PIECE characters at most, so that it replaces an earlier one whole."""
    assert len(text) <= PIECE, len(text)
    kept: dict[str, Any] = {"dashboard:note_ver": 1, "dashboard:note_str:0": text}
    held = study._storage.get_study_system_attrs(study._study_id)
    for key, value in kept.items():
        if held.get(key) != value:
            study._storage.set_study_system_attr(study._study_id, key, value)


def _pieces(trial_id: int, note: str) -> dict[str, Any]:
    """A note as optuna-dashboard keeps it, with the study."""
    pieces = [note[start : start + PIECE] for start in range(0, len(note), PIECE)]
    kept = {"note_ver": 1} | {f"note_str:{number}": piece for number, piece in enumerate(pieces)}
    return {f"dashboard:{trial_id}:{key}": value for key, value in kept.items()}


def records(study: Study, known: dict[int, TrialRecord] | None = None) -> list[TrialRecord]:
    """Every trial of the study, by number. Finished ones, which never change, are taken from `known` and put there."""
    known = {} if known is None else known
    found = [known.get(trial.number) or _record(trial) for trial in study.get_trials(deepcopy=False)]
    known.update({record.number: record for record in found if record.finished and record.number not in known})
    return found


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


def utc(local: datetime | None) -> datetime | None:
    """Optuna gives the local time without its zone."""
    return None if local is None else local.astimezone(UTC)


def _local(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone().replace(tzinfo=None)


def _frozen_study(connection: Connection, id_: int, name: str) -> FrozenStudy:
    directions = "SELECT direction FROM study_directions WHERE study_id = ? ORDER BY objective"
    user, system = (
        connection.exec_driver_sql(f"SELECT key, value_json FROM study_{kind}_attributes WHERE study_id = ?", (id_,))
        for kind in ("user", "system")
    )
    return FrozenStudy(
        study_name=name,
        direction=None,
        directions=[StudyDirection[direction] for (direction,) in connection.exec_driver_sql(directions, (id_,))],
        user_attrs={key: json.loads(text) for key, text in user},
        system_attrs={key: json.loads(text) for key, text in system},
        study_id=id_,
    )


def _frozen(row: rows.TrialRow) -> FrozenTrial:
    distributions = {name: _distribution(text) for name, _, text in row.params}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=[row.values[objective] for objective in sorted(row.values)] or None,
        datetime_start=_local(row.started),
        datetime_complete=_local(row.ended),
        params={name: distributions[name].to_external_repr(number) for name, number, _ in row.params},
        distributions=distributions,
        user_attrs=row.user,
        system_attrs=row.system,
        intermediate_values=row.rungs,
        trial_id=row.trial_id,
    )


@functools.lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    """Trials share the distributions of their parameters, which nobody changes."""
    return json_to_distribution(text)


def _set(connection: Connection, table: str, owner: str, id_: int, attributes: Mapping[str, Any]) -> None:
    """Set attributes as Optuna stores them, over what is there."""
    if not attributes:
        return
    connection.exec_driver_sql(
        f"INSERT INTO {table} ({owner}, key, value_json) VALUES (?, ?, ?) "
        f"ON CONFLICT ({owner}, key) DO UPDATE SET value_json = excluded.value_json",
        [(id_, key, json.dumps(value)) for key, value in attributes.items()],
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
