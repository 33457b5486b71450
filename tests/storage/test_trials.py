"""Optuna's storage on our settings, and trials as records."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, get_storage
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from optuna_dashboard import get_note
from storage_kit import Child, leave_half_written, start_together

from storage import db
from storage.attempts import Work
from storage.db import StorageError
from storage.ledger import Holder, Ledger
from storage.records import Brief, read
from storage.trials import (
    OPTUNA_SCHEMA,
    StudyStorage,
    TrialRecord,
    annotate,
    open_read_only,
    open_storage,
    read_records,
    records,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and nothing in them, to be copied."""
    path = tmp_path_factory.mktemp("template") / "study.db"
    open_storage(path).engine.dispose()
    return path


class TestConformance(StorageTestCase):
    """Optuna's own suite for storages, on ours."""

    @pytest.fixture(params=["plain", "cached"])
    def storage(self, request: pytest.FixtureRequest, fast_path: Path, template: Path) -> Iterator[BaseStorage]:
        """As it is, and as `optuna.create_study` wraps it."""
        shutil.copy(template, fast_path)
        storage = open_storage(fast_path)
        yield storage if request.param == "plain" else get_storage(storage)
        storage.engine.dispose()


def test_settings_are_those_of_the_design_from_the_first_connection_on(path: Path) -> None:
    storage = open_storage(path)
    for engine in (storage.engine, pickle.loads(pickle.dumps(storage)).engine):
        with engine.connect() as connection:
            asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked] == ["delete", 3, 1, 60_000]
            other = sqlite3.connect(path, timeout=0, isolation_level=None)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            other.close()


def test_the_ledger_is_in_the_same_file(path: Path) -> None:
    study = optuna.create_study(storage=open_storage(path), study_name="night")
    ledger = Ledger(db.engine(path))
    trial = study.ask()
    attempt = ledger.open_attempt(trial.number, "000", Holder.of_process(os.getpid()), 10, 100)
    study.tell(trial, 0.5)
    ledger.close(attempt.id, 5, "completed", {})
    assert [r.value for r in records(study)] == [0.5]
    db.backup(path)
    db.check(path)


# Records


def finished_study(path: Path) -> optuna.Study:
    """A study with a trial in every state."""
    study = optuna.create_study(storage=open_storage(path), study_name="night", direction="maximize")
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None):
        trial = study.ask()
        trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)
        trial.suggest_categorical("targets", ["attention", "mlp"])
        trial.report(2.5, 100)
        trial.report(2.75, 50)
        trial.set_user_attr("note", {"samples": ["a", "b"]})
        trial.set_constraint("memory", -0.5)
        trial.set_constraint("night", 1.5)
        if state is not None:
            study.tell(trial, 0.25 if state is TrialState.COMPLETE else None, state)
    study.enqueue_trial({"learning_rate": 2e-4}, user_attrs={"prior": "lora-defaults"})
    return study


def test_records_are_trials_by_number(path: Path) -> None:
    study = finished_study(path)
    complete, pruned, failed, running, waiting = found = records(study)
    assert [r.number for r in found] == [0, 1, 2, 3, 4]
    assert [r.state for r in found] == ["complete", "pruned", "failed", "running", "waiting"]
    assert [r.finished for r in found] == [True, True, True, False, False]
    assert [r.value for r in (complete, failed, running, waiting)] == [0.25, None, None, None]
    assert complete.params == study.trials[0].params
    assert complete.rungs == {50: 2.75, 100: 2.5}
    assert list(complete.rungs) == [50, 100]
    assert complete.user_attrs == {"note": {"samples": ["a", "b"]}}
    assert complete.constraints == {"memory": -0.5, "night": 1.5}
    assert not complete.feasible
    assert waiting.feasible
    assert waiting.params == {"learning_rate": 2e-4}
    assert waiting.user_attrs == {"prior": "lora-defaults"}
    assert (waiting.started, waiting.ended, running.ended) == (None, None, None)
    assert pruned.trial_id == study.trials[1]._trial_id


def test_times_are_utc_wherever_the_machine_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        record = records(finished_study(path))[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert record.started is not None
    assert record.ended is not None
    assert record.started.tzinfo is UTC
    assert timedelta(0) <= datetime.now(UTC) - record.started < timedelta(minutes=5)
    assert record.started <= record.ended
    assert read(path).trials[0] == record


def test_reading_only_gives_the_same_records(path: Path) -> None:
    study = finished_study(path)
    reader = open_read_only(path)
    assert read_records(reader, "night") == records(study) == read(path).trials
    assert all(isinstance(record, TrialRecord) for record in records(study))
    with pytest.raises(KeyError):
        read_records(reader, "day")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        reader.set_trial_user_attr(4, "note", "mine")
    with pytest.raises(StorageError, match="cannot be opened for what is asked"), db.storage_errors(path):
        reader.set_trial_state_values(4, TrialState.FAIL)
    assert read_records(reader, "night") == records(study)


def test_the_read_only_url_serves_optuna_itself(path: Path) -> None:
    """Which is how its dashboard opens it."""
    study = finished_study(path)
    plain = optuna.storages.RDBStorage(db.read_only_url(path), skip_compatibility_check=True, skip_table_creation=True)
    assert read_records(plain, "night") == records(study)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        plain.delete_study(1)


def test_reading_after_a_power_cut(path: Path) -> None:
    before = records(finished_study(path))
    leave_half_written(path)
    assert read(path).trials == before
    assert read_records(open_read_only(path), "night") == before


def test_reading_where_there_is_nothing_yet(path: Path) -> None:
    with pytest.raises(StorageError, match="no study database"):
        open_read_only(path)
    db.open_database(path).dispose()
    for reading in (open_read_only, read):
        with pytest.raises(StorageError, match=r"no room for trials yet.*`nightshift start`"):
            reading(path)


def test_reading_without_optuna_says_what_optuna_says_of_every_kind_of_trial(path: Path) -> None:
    study = finished_study(path)
    for value in (float("inf"), float("-inf")):
        study.tell(study.ask(), value)
    trial = study.ask({"n": optuna.distributions.IntDistribution(1, 9), "none": _choice(None, 1), "yes": _choice(True)})
    trial.report(float("nan"), 50)
    trial.report(float("inf"), 25)
    trial.set_constraint("memory", 0.25)
    trial.set_user_attr("deep", {"a": [1, None, "é"]})
    study.tell(trial, state=TrialState.FAIL)
    study.enqueue_trial({"n": 3})
    ours, theirs = read(path).trials, records(study)
    assert repr(ours) == repr(theirs)  # nan is not itself
    assert ours[-2].constraints == {"memory": 0.25}


def test_reading_without_sqlalchemy_says_what_the_ledger_says(path: Path, holder: Holder) -> None:
    finished_study(path)
    ledger = Ledger(db.engine(path))

    def both() -> tuple[object, object]:
        found = read(path)
        ours = found.work, found.open_attempts, found.spent_s
        return ours, (ledger.work(), ledger.open_attempts(), ledger.spent_s())

    assert both() == (({}, [], 0.0), ({}, [], 0.0))
    closed = ledger.open_attempt(0, "000", holder, 10, 100)
    ledger.pay(closed.id, 5.25, 100)
    ledger.close(closed.id, 11.1, "completed", {"train": 7.3, "save": 1.0}, "as planned")
    ledger.abandon(ledger.open_attempt(0, "000", holder, 10, 100).id, "it died")
    ledger.open_attempt(None, "base", holder, 2.5, 100)
    ours, theirs = both()
    assert ours == theirs
    assert read(path).work == {0: Work(2, 21.1), None: Work(1, 2.5)}


def test_a_brief_reading_has_the_rest_of_the_chosen_trials_alone(path: Path) -> None:
    finished_study(path)
    whole, brief = read(path).trials, read(path, Brief(("prior",), lambda found: [found[1].number])).trials
    assert [r.state for r in brief] == [r.state for r in whole]
    assert [r.value for r in brief] == [r.value for r in whole]
    assert brief[1] == whole[1]
    assert (brief[0].params, brief[0].rungs, brief[0].user_attrs) == ({}, {}, {})
    assert brief[4].user_attrs == {"prior": "lora-defaults"}


def test_bulk_reading_gives_the_trials_that_optuna_reads_through_its_models(path: Path) -> None:
    study = finished_study(path)
    study.add_trials(study.trials[:3] * 200)  # more than are named one by one
    theirs = optuna.storages.RDBStorage(db.read_only_url(path), skip_compatibility_check=True, skip_table_creation=True)
    assert open_storage(path).get_all_trials(1) == theirs.get_all_trials(1)
    assert repr(vars(open_storage(path).get_all_studies()[0])) == repr(vars(theirs.get_all_studies()[0]))


def test_records_of_finished_trials_are_made_once(path: Path) -> None:
    study = finished_study(path)
    known: dict[int, TrialRecord] = {}
    before = records(study, known)
    study.tell(3, 0.75)
    after = records(study, known)
    assert after == records(study)
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, True, True, False, False]


@pytest.mark.parametrize("note", ["", "short", "### Long\n" + "é|" * 3000])
def test_an_annotation_is_what_optuna_dashboard_shows(path: Path, note: str) -> None:
    for storage in (open_storage(path), optuna.storages.InMemoryStorage()):
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        for _ in range(2):  # as after a kill
            annotate(study, trial, {"score": {"value": 0.5}, "nan": [1, None]}, note)
        assert get_note(trial) == note
        assert study.trials[0].user_attrs == {"score": {"value": 0.5}, "nan": [1, None]}
        study.tell(trial, 0.5)
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            annotate(study, trial, {"late": 1}, note)


def _choice(*choices: object) -> optuna.distributions.CategoricalDistribution:
    return optuna.distributions.CategoricalDistribution(choices)


# Optuna's schema


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ("v99.0.0.a", r"Install the newer Optuna: pip install -U optuna"),
        ("v3.0.0.d", r"optuna storage upgrade --storage "),
    ],
)
def test_optuna_tables_of_another_version_are_refused_untouched(path: Path, version: str, cure: str) -> None:
    storage = open_storage(path)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = ?", (version,))
    before = path.read_bytes()
    for reading in (open_storage, open_read_only, read):
        with pytest.raises(StorageError, match=rf"tables of version {version}, and this Optuna knows v\d.*{cure}"):
            reading(path)
    assert path.read_bytes() == before


def test_the_named_upgrade_command_works(path: Path) -> None:
    storage = open_storage(path)
    with storage.engine.begin() as connection:  # v3.2.0.a, the next one, adds an index
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    with pytest.raises(StorageError) as raised:
        open_storage(path)
    command = str(raised.value).partition("then upgrade it: ")[2]
    subprocess.run(f"{Path(sys.executable).parent}/{command}", shell=True, check=True, capture_output=True)
    open_storage(path)


# Several processes


def _ask(path: Path, times: int, pipe: Pipe) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(storage=open_storage(path), study_name="night")
    pipe.send("ready")
    pipe.recv()
    pipe.send([study.ask().user_attrs["ticket"] for _ in range(times)])


def test_four_processes_never_pop_the_same_queued_trial(fast_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(fast_path), study_name="night")
    for ticket in range(100):
        study.enqueue_trial({}, user_attrs={"ticket": ticket})
    children = start_together(_ask, [(fast_path, 25)] * 4)
    tickets = [ticket for child in children for ticket in child.pipe.recv()]
    for child in children:
        child.join()
    assert sorted(tickets) == list(range(100))
    assert [r.state for r in records(study)] == ["running"] * 100


def _make(path: Path, pipe: Pipe) -> None:
    pipe.send("ready")
    open_storage(path)


def test_a_kill_while_it_is_made_leaves_what_can_be_opened(path: Path) -> None:
    draw = random.Random(0)
    for delay_s in (0.0, *(draw.uniform(0, 0.3) for _ in range(3))):
        child = Child(_make, path)
        child.pipe.recv()
        child.process.join(delay_s)
        child.kill()
        storage = open_storage(path)
        optuna.create_study(storage=storage).tell(optuna.load_study(storage=storage, study_name=None).ask(), 1.0)
        storage.engine.dispose()
        path.unlink()


def test_a_storage_travels_to_a_spawned_process(path: Path) -> None:
    storage = open_storage(path)
    optuna.create_study(storage=storage, study_name="night")
    child = Child(_report_settings, storage)
    assert child.pipe.recv() == 3
    child.join()


def _report_settings(storage: StudyStorage, pipe: Pipe) -> None:
    with storage.engine.connect() as connection:
        pipe.send(connection.exec_driver_sql("PRAGMA synchronous").scalar())


def test_the_schema_that_is_known_without_asking_is_optunas_own(path: Path) -> None:
    assert open_storage(path).get_head_version() == OPTUNA_SCHEMA
