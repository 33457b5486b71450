"""A study of any number of finished trials, as Nightshift leaves it: grown from a rehearsal's own, row by row.

Every trial that is added is a copy of one that the real loop finished: its rows in Optuna's tables (state, score,
rungs, attributes, the note) and in ours (attempts, leases, refunds, costs by cause), its recipe.json and result.json.
What tells trials apart is drawn anew: hyperparameters from their own ranges, the score and the rungs with noise. Three
things that a rehearsal seldom has are added as the loop writes them: a memory constraint of every trial, suggestions
that do not fit (5 of 100), and failures (2 of 100).
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, json_to_distribution

from search import service
from storage import db
from storage.records import CONSTRAINT
from train.rundir import read_json, write_json

Row = dict[str, Any]
OF_A_TRIAL = ("trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes")
MISFITS, FAILURES = 0.05, 0.02
MISFIT_KEEPS = ("trial_params", "trial_system_attributes")
HOUR_S = 3600.0
MOST_TRIALS = 10_000  # that a study file may ask for; what does not fit does not count


def grow(rehearsed: Path, folder: Path, count: int, seed: int = 0) -> Path:
    """Make `folder` a study of `count` finished trials, from the finished study in `rehearsed`; returns `folder`."""
    shutil.copytree(rehearsed, folder, ignore=shutil.ignore_patterns("final*", "report*", "*.backup", ".lock"))
    text = (rehearsed / "study.toml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^trials = \d+", f"trials = {min(2 * count, MOST_TRIALS)}", text)
    (folder / "study.toml").write_text(text, encoding="utf-8")
    facts = read_json(folder / service.FACTS)
    write_json(
        folder / service.FACTS,
        {**(facts or {}), "trials_wanted": min(2 * count, MOST_TRIALS), "budget_s": 1000 * HOUR_S},
    )
    db.open_database(folder / "study.db").dispose()
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        _Growth(connection, folder, random.Random(seed)).to(count)
        connection.execute("COMMIT")
    return folder


class _Growth:
    """Copies of the trials that a database holds, added to it."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, draw: random.Random) -> None:
        self._sql = connection
        self._runs = folder / "runs"
        self._draw = draw
        self._finished = [t for t in self._rows("trials") if t["state"] in ("COMPLETE", "PRUNED")]
        self._of = {table: self._by(table, "trial_id") for table in OF_A_TRIAL}
        self._attempts = self._by("attempt", "trial_number")
        self._ledger = {table: self._by(table, "attempt_id") for table in ("entry", "cost")}
        self._notes = {row["key"]: row for row in self._rows("study_system_attributes")}
        self._next_attempt = 1 + max(attempt["id"] for attempts in self._attempts.values() for attempt in attempts)

    def to(self, count: int) -> None:
        """Add trials until there are `count`, and give every one a memory constraint."""
        (there,) = self._sql.execute("SELECT count(*) FROM trials").fetchone()
        for number in range(there, count):
            kind = self._draw.random()
            self._add(self._draw.choice(self._finished), number, kind < MISFITS, MISFITS < kind < MISFITS + FAILURES)
        for row in self._rows("trials"):
            misfit = f"SELECT 1 FROM trial_user_attributes WHERE trial_id = {row['trial_id']} AND key = 'infeasible'"
            excess = self._draw.uniform(0.0, 0.4) if self._sql.execute(misfit).fetchone() else -self._draw.random()
            self._attribute(row["trial_id"], "trial_system_attributes", CONSTRAINT + "memory", excess)

    def _add(self, model: Row, number: int, misfit: bool, failed: bool) -> None:
        state = "PRUNED" if misfit else "FAIL" if failed else model["state"]
        trial = self._insert("trials", {**model, "trial_id": None, "number": number, "state": state})
        value = self._value(model)
        tables = MISFIT_KEEPS if misfit else OF_A_TRIAL
        for table in tables:
            if not (failed and table == "trial_values"):
                for row in self._of.get(table, {}).get(model["trial_id"], []):
                    new = self._changed(table, row, number, value)
                    if new:
                        self._insert(table, {**new, next(iter(row)): None, "trial_id": trial})
        if misfit:
            self._attribute(trial, "trial_user_attributes", "infeasible", "the plan needs 12.3 GiB; the card has 11.6")
            return
        if failed:
            self._attribute(trial, "trial_user_attributes", "reason", "TrainingFailed: the loss is nan at step 31")
        self._note(model["trial_id"], trial)
        for attempt in self._attempts.get(model["number"], []):
            self._attempt(attempt, number)
        self._run(model["number"], number)

    def _changed(self, table: str, row: Row, number: int, value: float | None) -> Row | None:
        """The row with what another trial has in its place; None for what only a prior has."""
        if table == "trial_params":
            return {**row, "param_value": self._drawn(row)}
        if table == "trial_values":
            return {**row, "value": value}
        if table == "trial_intermediate_values":
            return {**row, "intermediate_value": row["intermediate_value"] * math.exp(self._draw.gauss(0, 0.2))}
        if row["key"] == "prior":
            return None
        if row["key"] == "run":
            return {**row, "value_json": json.dumps(f"runs/{number:03d}")}
        if row["key"] == "score" and value is not None:
            return {**row, "value_json": json.dumps({**json.loads(row["value_json"]), "value": value})}
        return row

    def _drawn(self, row: Row) -> float:
        """Another value of the parameter, as the table holds it. What others depend on stays as it is."""
        distribution: Any = json_to_distribution(row["distribution_json"])
        if row["param_name"] == "dpo_share" or distribution.single():
            return float(row["param_value"])
        if isinstance(distribution, CategoricalDistribution):
            return float(self._draw.randrange(len(distribution.choices)))
        low, high = distribution.low, distribution.high
        if distribution.log:
            return math.exp(self._draw.uniform(math.log(low), math.log(high)))
        if distribution.step:
            return float(low + distribution.step * self._draw.randrange(round((high - low) / distribution.step) + 1))
        return self._draw.uniform(low, high)

    def _value(self, model: Row) -> float | None:
        values = self._of["trial_values"].get(model["trial_id"], [])
        return round(64 * min(1.0, max(0.0, values[0]["value"] + self._draw.gauss(0, 0.05)))) / 64 if values else None

    def _note(self, model: int, trial: int) -> None:
        """The note, which optuna-dashboard keeps with the study, in pieces."""
        for key in self._note_keys(model):
            new = key.replace(f":{model}:", f":{trial}:")
            self._insert("study_system_attributes", {**self._notes[key], "study_system_attribute_id": None, "key": new})

    def _note_keys(self, model: int) -> Iterator[str]:
        return (key for key in self._notes if key.startswith(f"dashboard:{model}:"))

    def _attempt(self, attempt: Row, number: int) -> None:
        """As the ledger writes one: opened, paid, closed, its costs last."""
        id_, self._next_attempt = self._next_attempt, self._next_attempt + 1
        opened = {**attempt, "id": id_, "trial_number": number, "run": f"{number:03d}"}
        self._insert("attempt", {**opened, "ended_at": None, "outcome": None, "reason": ""})
        for entry in self._ledger["entry"].get(attempt["id"], []):
            self._insert("entry", {**entry, "id": None, "attempt_id": id_})
        end = [attempt[key] for key in ("ended_at", "outcome", "reason")]
        self._sql.execute("UPDATE attempt SET ended_at = ?, outcome = ?, reason = ? WHERE id = ?", [*end, id_])
        for cost in self._ledger["cost"].get(attempt["id"], []):
            self._insert("cost", {**cost, "attempt_id": id_})

    def _run(self, model: int, number: int) -> None:
        folder = self._runs / f"{number:03d}"
        folder.mkdir()
        for name in ("recipe.json", "result.json"):
            shutil.copyfile(self._runs / f"{model:03d}" / name, folder / name)

    def _attribute(self, trial: int, table: str, key: str, value: Any) -> None:
        self._sql.execute(
            f"INSERT OR REPLACE INTO {table} (trial_id, key, value_json) VALUES (?, ?, ?)",
            (trial, key, json.dumps(value)),
        )

    def _insert(self, table: str, row: Mapping[str, Any]) -> int:
        columns = ", ".join(f'"{column}"' for column in row)
        marks = ", ".join("?" * len(row))
        return self._sql.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values())).lastrowid or 0

    def _rows(self, table: str) -> list[Row]:
        return [dict(row) for row in self._sql.execute(f"SELECT * FROM {table} ORDER BY 1")]

    def _by(self, table: str, column: str) -> dict[int, list[Row]]:
        found: dict[int, list[Row]] = {}
        for row in self._rows(table):
            found.setdefault(row[column], []).append(row)
        return found


def shape(path: Path) -> dict[str, Any]:
    """What tells whether two databases are of one shape: for complete and pruned trials, the names of everything
    recorded of them, and of how many rows a trial consists, at least and at most, in every table of the ledger."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:

        def column(query: str) -> list[Any]:
            return sorted(row[0] for row in connection.execute(query))

        def extremes(query: str) -> tuple[int, int]:
            low, high = connection.execute(f"SELECT min(n), max(n) FROM ({query})").fetchone()
            return low, high

        per_attempt = (
            "SELECT count(*) AS n FROM {} AS part JOIN attempt ON attempt.id = part.attempt_id "
            "WHERE trial_number IS NOT NULL GROUP BY attempt.id"
        )
        notes = (
            "SELECT DISTINCT ltrim(substr(key, 11), '0123456789') FROM study_system_attributes WHERE key LIKE 'dash%'"
        )
        return {
            "params": column("SELECT DISTINCT param_name || distribution_json FROM trial_params"),
            "attributes": column("SELECT DISTINCT key FROM trial_user_attributes WHERE key != 'infeasible'"),
            "notes": column(notes),
            "rungs": column("SELECT DISTINCT step FROM trial_intermediate_values"),
            "costs": column("SELECT DISTINCT cause FROM cost"),
            "entries of an attempt": extremes(per_attempt.format("entry")),
            "costs of an attempt": extremes(per_attempt.format("cost")),
        }
