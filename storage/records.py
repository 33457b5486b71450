"""A study as frozen records, read without Optuna and SQLAlchemy, whose imports take a second where processors are slow.

For the pinned versions of all tables alone; tests hold this equal to what `storage.trials` and `storage.ledger` say.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from storage.attempts import Attempt, seconds
from storage.file import (
    VERSION_TABLE,
    StorageError,
    connect,
    require_content,
    require_schema,
    roll_back,
    storage_errors,
)

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


@dataclass(frozen=True)
class Records:
    """One study's trials by number, its attempts oldest first, and the seconds charged to all of them."""

    trials: list[TrialRecord]
    attempts: list[Attempt]
    spent_s: float


def read(path: Path) -> Records:
    """What the database of a study holds, as of one instant; works while another process writes.

    Raises StorageError where there is no database, or one whose tables are not made yet or of another version.
    """
    require_content(path)
    roll_back(path)
    with storage_errors(path), closing(connect(path, "ro")) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        require_schema(path, _version(connection, VERSION_TABLE))
        if (version := _version(connection, "alembic_version")) is None:
            raise unfinished(path)
        if version == OPTUNA_SCHEMA:
            return Records(_trials(connection), *_ledger(connection))
    from storage import trials

    trials.open_read_only(path).engine.dispose()  # which says what is wrong with another version
    raise AssertionError(f"Optuna knows tables at {path} that this file does not")


def unfinished(path: Path) -> StorageError:
    """For where a kill came between our tables and Optuna's, of which this one is the last, and is filled."""
    return StorageError(f"{path} has no room for trials yet: its making was interrupted. Run `nightshift start`.")


def _version(connection: sqlite3.Connection, table: str) -> str | None:
    """The one value in a table of versions; None where it is not there, or empty."""
    there = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    if not connection.execute(there, (table,)).fetchone()[0]:
        return None
    row = connection.execute(f"SELECT version_num FROM {table}").fetchone()
    return str(row[0]) if row else None


def utc(local: datetime | None) -> datetime | None:
    """Optuna writes the local time without its zone."""
    return None if local is None else local.astimezone(UTC)


def _ledger(connection: sqlite3.Connection) -> tuple[list[Attempt], float]:
    costs: defaultdict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in connection.execute("SELECT * FROM cost ORDER BY attempt_id, cause"):
        costs[row["attempt_id"]][row["cause"]] = row["microseconds"], row["tokens"]
    sums = connection.execute(
        "SELECT attempt.*, sum(microseconds) FILTER (WHERE kind = 'lease') AS paid, sum(microseconds) AS charged "
        "FROM attempt JOIN entry ON entry.attempt_id = attempt.id GROUP BY attempt.id ORDER BY attempt.id"
    ).fetchall()
    attempts = [Attempt.of_row(dict(row), row["paid"], row["charged"], costs[row["id"]]) for row in sums]
    return attempts, seconds(sum(row["charged"] for row in sums))


def _trials(connection: sqlite3.Connection) -> list[TrialRecord]:
    of = {table: _by_trial(connection, table) for table in _TABLES}
    trials = connection.execute("SELECT * FROM trials ORDER BY number").fetchall()
    return [_record(dict(row), {table: of[table][row["trial_id"]] for table in _TABLES}) for row in trials]


_TABLES = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


def _by_trial(connection: sqlite3.Connection, table: str) -> defaultdict[int, list[_Row]]:
    rows: defaultdict[int, list[_Row]] = defaultdict(list)
    for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
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
