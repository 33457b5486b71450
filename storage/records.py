"""A study as frozen records, read without Optuna and SQLAlchemy, whose imports take a second where processors are slow.

For the pinned versions of all tables alone; tests hold this equal to what `storage.trials` and `storage.ledger` say.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from storage import rows
from storage.attempts import WORK, Attempt, Work, seconds, work_of_rows
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
class Brief:
    """What to read of a study of thousands of trials when few are looked at: of every trial its state, its value and
    the user attributes of these names; all else (parameters, rungs, constraints, other attributes) just of the trials
    whose numbers `whole` gives for the records of all."""

    attributes: Collection[str]
    whole: Callable[[Sequence[TrialRecord]], Collection[int]]


@dataclass(frozen=True)
class Records:
    """One study's trials by number, what was paid for each and for what belongs to none (None), the attempts that are
    open, and the seconds charged to all attempts."""

    trials: list[TrialRecord]
    work: Mapping[int | None, Work]
    open_attempts: list[Attempt]
    spent_s: float


def read(path: Path, brief: Brief | None = None) -> Records:
    """What the database of a study holds, as of one instant; works while another process writes.

    Raises StorageError where there is no database, or one whose tables are not made yet or of another version.
    """
    require_content(path)
    roll_back(path)
    with storage_errors(path), closing(connect(path, "ro")) as connection:
        connection.execute("BEGIN")
        require_schema(path, _version(connection, VERSION_TABLE))
        if (version := _version(connection, "alembic_version")) is None:
            raise unfinished(path)
        if version == OPTUNA_SCHEMA:
            return Records(_trials(connection, brief), *_ledger(connection))
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


def _ledger(connection: sqlite3.Connection) -> tuple[dict[int | None, Work], list[Attempt], float]:
    sums = connection.execute(WORK).fetchall()
    connection.row_factory = sqlite3.Row
    still = connection.execute(
        "SELECT attempt.*, sum(microseconds) AS paid FROM attempt JOIN entry ON entry.attempt_id = attempt.id "
        "WHERE ended_at IS NULL GROUP BY attempt.id ORDER BY attempt.id"
    ).fetchall()
    attempts = [Attempt.of_row(dict(row), row["paid"], row["paid"], {}) for row in still]  # refunds come with the end
    return work_of_rows(sums), attempts, seconds(sum(charged for _, _, charged in sums))


def _trials(connection: sqlite3.Connection, brief: Brief | None) -> list[TrialRecord]:
    def query(statement: str) -> list[tuple[Any, ...]]:
        return connection.execute(statement).fetchall()

    def records(where: str, only: Collection[str] | None = None) -> dict[int, TrialRecord]:
        return {row.number: _record(row) for row in rows.trials(query, where, only=only)}

    if brief is None:
        found = records("1")
    else:
        found = records("1", brief.attributes)
        numbers = ", ".join(map(str, brief.whole([found[number] for number in sorted(found)])))
        found |= records(f"number IN ({numbers})")
    return [found[number] for number in sorted(found)]


def _record(row: rows.TrialRow) -> TrialRecord:
    state = STATES[row.state]
    queued = row.system.get("fixed_params", {}) if state == "waiting" else {}
    return TrialRecord(
        number=row.number,
        trial_id=row.trial_id,
        state=state,
        value=row.values.get(0),
        params={**queued, **{name: _param(value, _distribution(text)) for name, value, text in row.params}},
        user_attrs=row.user,
        rungs=row.rungs,
        constraints={k.removeprefix(CONSTRAINT): v for k, v in row.system.items() if k.startswith(CONSTRAINT)},
        started=row.started,
        ended=row.ended,
    )


@functools.lru_cache(maxsize=4096)
def _distribution(text: str) -> Mapping[str, Any]:
    """Trials repeat the distributions of their parameters, word for word."""
    read: dict[str, Any] = json.loads(text)
    return read


def _param(number: float, distribution: Mapping[str, Any]) -> Value:
    """The table holds a number; for a choice, its index."""
    if distribution["name"] == "CategoricalDistribution":
        choice: Value = distribution["attributes"]["choices"][int(number)]
        return choice
    return int(number) if distribution["name"] == "IntDistribution" else float(number)
