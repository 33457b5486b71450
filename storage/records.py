"""The trials of a study as frozen records, read from Optuna's tables without Optuna, which takes most of a second.

Only for the pinned version of those tables; `storage.trials` reads every other way, and tests that both say the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, inspect

from storage.db import StorageError, read_only_engine, storage_errors

State = Literal["waiting", "running", "complete", "pruned", "failed"]
Value = float | int | str | bool | None

OPTUNA_SCHEMA = "v3.2.0.a"  # of the pinned Optuna; asking Optuna itself takes 0.3 s
CONSTRAINT = "constraints:"  # how the names of Optuna's attributes for constraints begin
STATES: dict[str, State] = {
    "WAITING": "waiting",
    "RUNNING": "running",
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
}
_INFINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}
_Row = Mapping[str, Any]


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


def read(path: Path) -> list[TrialRecord]:
    """Every trial of the one study in the database at `path`, by number; works while another process writes.

    Raises StorageError where there is no database, or one whose tables are not made yet or of another version.
    """
    reader = read_only_engine(path)
    try:
        with storage_errors(path), reader.connect() as connection:
            require_tables(path, connection)
            if connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == OPTUNA_SCHEMA:
                return _records(connection)
    finally:
        reader.dispose()
    from storage import trials

    trials.open_read_only(path).engine.dispose()  # which says what is wrong with another version
    raise AssertionError(f"Optuna knows tables at {path} that this file does not")


def require_tables(path: Path, connection: Connection) -> None:
    """Raise StorageError where a kill came between our tables and Optuna's."""
    made = inspect(connection).has_table("alembic_version")  # Optuna's last step, and it fills it
    if not made or not connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one():
        raise StorageError(f"{path} has no room for trials yet: its making was interrupted. Run `nightshift start`.")


def utc(local: datetime | None) -> datetime | None:
    """Optuna writes the local time without its zone."""
    return None if local is None else local.astimezone(UTC)


def _records(connection: Connection) -> list[TrialRecord]:
    of = {table: _by_trial(connection, table) for table in _TABLES}
    trials = connection.exec_driver_sql("SELECT * FROM trials ORDER BY number").mappings()
    return [_record(dict(row), {table: of[table][row["trial_id"]] for table in _TABLES}) for row in trials]


_TABLES = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


def _by_trial(connection: Connection, table: str) -> defaultdict[int, list[_Row]]:
    rows: defaultdict[int, list[_Row]] = defaultdict(list)
    for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").mappings():
        rows[row["trial_id"]].append(dict(row))
    return rows


def _record(trial: _Row, of: Mapping[str, list[_Row]]) -> TrialRecord:
    state = STATES[trial["state"]]
    system = {row["key"]: json.loads(row["value_json"]) for row in of["trial_system_attributes"]}
    queued = system.get("fixed_params", {}) if state == "waiting" else {}
    values = [_number(row["value"], row["value_type"]) for row in of["trial_values"]]
    rungs = {
        row["step"]: _number(row["intermediate_value"], row["intermediate_value_type"])
        for row in of["trial_intermediate_values"]
    }
    return TrialRecord(
        number=trial["number"],
        trial_id=trial["trial_id"],
        state=state,
        value=values[0] if values else None,
        params={**queued, **{row["param_name"]: _param(row) for row in of["trial_params"]}},
        user_attrs={row["key"]: json.loads(row["value_json"]) for row in of["trial_user_attributes"]},
        rungs=dict(sorted(rungs.items())),
        constraints={k.removeprefix(CONSTRAINT): v for k, v in system.items() if k.startswith(CONSTRAINT)},
        started=_time(trial["datetime_start"]),
        ended=_time(trial["datetime_complete"]),
    )


def _number(value: float, kind: str) -> float:
    return _INFINITE.get(kind, value)


def _param(row: _Row) -> Value:
    """The table holds a number; for a choice, its index."""
    distribution = json.loads(row["distribution_json"])
    number = row["param_value"]
    if distribution["name"] == "CategoricalDistribution":
        choice: Value = distribution["attributes"]["choices"][int(number)]
        return choice
    return int(number) if distribution["name"] == "IntDistribution" else float(number)


def _time(text: str | None) -> datetime | None:
    return None if text is None else utc(datetime.fromisoformat(text))
