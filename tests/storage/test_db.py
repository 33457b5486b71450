"""The database file: settings, damage, permissions, migrations, backup, and what its owner is told."""

from __future__ import annotations

import logging
import os
import resource
import sqlite3
import subprocess
import sys
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Engine, event, inspect
from sqlalchemy.exc import IntegrityError
from storage_kit import Child, leave_half_written, start_together

import storage.file
import storage.migrations
from storage import db
from storage.db import StorageError, backup, backup_path, check, open_database, read_only_engine
from storage.ledger import Holder, Ledger
from storage.tables import Model

ODD_NAMES = ["with space", "{y}", "q?x=1#y", "100%25", "it's", "é", "a&mode=memory", "\udcff"]
DEADLINE = 1e9


def spend(engine: Engine, holder: Holder, seconds: float, run: str = "000") -> None:
    """One attempt, paid for `seconds` and left open."""
    Ledger(engine).open_attempt(0, run, holder, seconds, DEADLINE)


def test_settings_are_those_of_the_design(engine: Engine) -> None:
    asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "mmap_size")
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked]
    assert found == ["delete", 3, 1, 60_000, 0]


def test_a_transaction_holds_the_write_lock_from_its_beginning(engine: Engine, path: Path) -> None:
    with engine.connect() as first:
        first.begin()
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_transaction_inside_another_of_the_same_thread_reads_and_does_not_wait(engine: Engine) -> None:
    with engine.begin() as outer, engine.begin() as inner:
        assert inner.exec_driver_sql("SELECT count(*) FROM entry").scalar() == 0
        outer.exec_driver_sql("SELECT 1")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_path_works(tmp_path: Path, name: str, holder: Holder) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.db"
    engine = open_database(path)
    spend(engine, holder, 10)
    assert db.path_of(engine) == path
    backup(path)
    assert sorted(folder.iterdir()) == sorted([path, backup_path(path)])
    assert [tmp_path / name] == list(tmp_path.iterdir())
    reader = read_only_engine(path)
    assert Ledger(reader).spent_s() == 10


def test_opening_again_changes_nothing(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    before = path.read_bytes()
    open_database(path).dispose()
    assert path.read_bytes() == before


def _open_at_once(path: Path, ready: Pipe) -> None:
    ready.send("ready")
    ready.recv()
    open_database(path).dispose()


def test_four_processes_may_make_it_at_once(path: Path) -> None:
    for child in start_together(_open_at_once, [(path,)] * 4):
        child.join()
    check(path)


# Reading


def test_read_only_reads_and_cannot_write(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    reader = Ledger(read_only_engine(path))
    assert reader.spent_s() == 10
    with pytest.raises(StorageError, match="cannot be opened for what is asked"):
        reader.pay(1, 10, DEADLINE)
    assert reader.spent_s() == 10


def _pay_without_end(path: Path, ready: Pipe) -> None:
    ledger = Ledger(db.engine(path))
    ready.send("ready")
    while not ready.poll():
        ledger.pay(1, 10, DEADLINE)


def test_read_only_works_while_a_writer_is_at_work(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    child = Child(_pay_without_end, path)
    child.pipe.recv()
    reader = Ledger(read_only_engine(path))
    seen = [reader.spent_s() for _ in range(20)]
    while reader.spent_s() == seen[0]:  # the writer is not held up for ever
        pass
    child.pipe.send("stop")
    child.join()
    assert seen == sorted(seen)


def test_what_a_power_cut_left_half_written_is_rolled_back(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    engine.dispose()
    leave_half_written(path)
    assert Ledger(read_only_engine(path)).spent_s() == 10
    assert not storage.file.journal_path(path).exists()


def test_checking_leaves_a_living_transaction_alone(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE attempt SET reason = 'alive'")
        assert storage.file.journal_path(path).exists()
        check(path)
        assert Ledger(read_only_engine(path)).attempts()[0].reason == ""
    assert Ledger(engine).attempts()[0].reason == "alive"


# Damage


def damage(path: Path, how: str) -> None:
    """Hurt a database of several pages."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "header cut": content[:60],
            "cut": content[:middle],
            "text": b"all work and no play\n" * 500,
            "zeros": bytes(len(content)),
            "overwritten": content[:4096] + os.urandom(len(content) - 4096),
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "header cut", "cut", "text", "zeros", "overwritten"])
def test_a_damaged_file_is_left_alone_and_the_named_command_restores_it(
    engine: Engine, path: Path, holder: Holder, how: str
) -> None:
    spend(engine, holder, 10)
    engine.dispose()
    backup(path)
    damage(path, how)
    hurt = path.read_bytes()
    with pytest.raises(
        StorageError, match=r"damaged .*left untouched.* newest verified backup was written 20"
    ) as raised:
        open_database(path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == hurt

    command = str(raised.value).partition("To restore it: ")[2]
    subprocess.run(command, shell=True, check=True)
    restored = open_database(path)
    assert Ledger(restored).spent_s() == 10
    assert path.with_name("study.db.damaged").read_bytes() == hurt


def test_a_damaged_file_beside_a_journal_is_restored_without_it(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    engine.dispose()
    backup(path)
    leave_half_written(path)
    with pytest.raises(StorageError, match="damaged") as raised:
        raise storage.file.damaged(path, "as if")
    subprocess.run(str(raised.value).partition("To restore it: ")[2], shell=True, check=True)
    assert Ledger(open_database(path)).spent_s() == 10


def test_a_backup_that_does_not_verify_is_not_offered(engine: Engine, path: Path) -> None:
    engine.dispose()
    backup(path)
    damage(backup_path(path), "overwritten")
    damage(path, "text")
    with pytest.raises(StorageError, match=r"no backup of it that verifies\. To begin anew: mv ") as raised:
        open_database(path)
    subprocess.run(str(raised.value).partition("To begin anew: ")[2], shell=True, check=True)
    open_database(path).dispose()


def test_a_missing_file_with_a_backup_is_not_begun_anew(engine: Engine, path: Path) -> None:
    engine.dispose()
    backup(path)
    path.unlink()
    with pytest.raises(StorageError, match=r"study\.db is gone\. The newest verified backup"):
        open_database(path)
    assert not path.exists()


def test_a_file_that_was_deleted_or_replaced_at_work_is_noticed(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    other = path.with_name("other.db")
    open_database(other).dispose()
    os.replace(other, path)
    with pytest.raises(StorageError, match="was replaced while it was in use"):
        Ledger(engine).pay(1, 10, DEADLINE)
    path.unlink()
    with pytest.raises(StorageError, match="no study database at"):
        Ledger(engine).pay(1, 10, DEADLINE)


# What is in the way


def test_reading_where_there_is_none(path: Path) -> None:
    for read in (read_only_engine, check, backup):
        with pytest.raises(StorageError, match=r"no study database at .*study\.db\. `nightshift start"):
            read(path)
    assert not path.exists()


def test_a_schema_of_a_newer_version_is_refused_untouched(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE nightshift_version SET version_num = '0099'")
    before = path.read_bytes()
    for read in (open_database, read_only_engine, check):
        with pytest.raises(StorageError, match=r"schema is 0099, and this one knows up to 0002\. .*pip install -U"):
            read(path)
    with pytest.raises(StorageError, match="0099"):
        db.migrate(engine)
    assert path.read_bytes() == before


def test_reading_a_schema_that_was_never_made(path: Path) -> None:
    path.touch()
    with pytest.raises(StorageError, match=r"holds no tables of ours.*`nightshift start`"):
        read_only_engine(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"folder of the study database .*study\.db is not there.*mkdir -p "):
        open_database(tmp_path / "not there" / "study.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_its_place_is_named(path: Path) -> None:
    path.mkdir()
    for read in (open_database, read_only_engine):
        with pytest.raises(StorageError, match="is no file"):
            read(path)


def test_an_unwritable_folder_names_its_owner(nobody: Path) -> None:
    nobody.chmod(0o555) if os.geteuid() == nobody.stat().st_uid else None
    owner = nobody.owner()
    with pytest.raises(StorageError, match=rf"{nobody} cannot be opened .* belongs to {owner} with mode 0[57]55"):
        open_database(nobody / "study.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_file_of_another_user_names_its_owner_and_may_be_read(nobody: Path) -> None:
    path = nobody / "study.db"
    os.seteuid(0)
    open_database(path).dispose()
    nobody.chmod(0o777)
    os.seteuid(65534)
    with pytest.raises(StorageError, match=r"study\.db cannot be opened .* belongs to root with mode 0644"):
        open_database(path)
    assert Ledger(read_only_engine(path)).spent_s() == 0


def test_network_file_systems_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for magic, name in ((0x6969, "NFS"), (0xFF534D42, "CIFS"), (0xFE534D42, "SMB")):
        monkeypatch.setattr(storage.file, "filesystem_type", lambda _folder, magic=magic: magic)
        with pytest.raises(StorageError, match=rf"network file system \({name}\).*local disk"):
            open_database(path)
    assert not path.exists()


def test_the_file_system_is_the_one_that_stat_tells(tmp_path: Path) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%t", tmp_path], capture_output=True, check=True, text=True).stdout
    assert storage.file.filesystem_type(tmp_path) == int(told, 16)


def test_a_lock_that_does_not_go_away_is_told(path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_S", 0)
    impatient = Ledger(db.engine(path))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="is locked: another process has held it"):
        impatient.spent_s()
    blocker.close()
    assert impatient.spent_s() == 0


def pay_until_it_fails(ledger: Ledger) -> None:
    """Ends only by an exception."""
    while True:
        ledger.pay(1, 10, DEADLINE)


def test_a_full_disk_loses_nothing_that_was_recorded(path: Path, engine: Engine, holder: Holder) -> None:
    @event.listens_for(engine, "connect")
    def _small(connection: sqlite3.Connection, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    engine.dispose()
    ledger = Ledger(engine)
    ledger.open_attempt(0, "000", holder, 10, DEADLINE)
    with pytest.raises(StorageError, match="the disk is full"):
        pay_until_it_fails(ledger)
    spent = ledger.spent_s()
    assert spent > 10
    with pytest.raises(StorageError, match="the disk is full"):
        ledger.pay(1, 10, DEADLINE)
    assert ledger.spent_s() == spent
    check(path)


def test_other_errors_pass(path: Path, engine: Engine) -> None:
    with pytest.raises(KeyError), db.storage_errors(path):
        raise KeyError("mine")
    with pytest.raises(IntegrityError), db.storage_errors(path), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO cost VALUES (7, 'nobody', 1, 0)")


# Migrations


def test_the_migrated_schema_is_that_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"version_table": storage.file.VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Model.metadata) == []
        made = inspect(connection)
        for table in Model.metadata.sorted_tables:
            checks = {check["name"] for check in made.get_check_constraints(table.name)}
            assert checks == {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
        indexes = {index["name"]: index["dialect_options"] for index in made.get_indexes("attempt")}
        assert str(indexes["attempt_one_open_per_run"]["sqlite_where"]) == "ended_at IS NULL"


def test_the_newest_revision_is_the_one_that_opening_looks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(storage.migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [storage.file.HEAD]
    assert all(len(revision.revision) == 4 for revision in script.walk_revisions())  # compared as text


def test_what_an_earlier_version_spent_is_kept_without_tokens(path: Path) -> None:
    path.touch()
    engine, config = db.engine(path), Config()
    config.set_main_option("script_location", str(Path(storage.migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO attempt VALUES (1, 0, '000', 'here', 'boot', 1, 1, '2026-01-01T00:00:00Z', NULL, NULL, '')"
        )
        connection.exec_driver_sql("INSERT INTO entry VALUES (1, 1, 'lease', 5000000, '2026-01-01T00:00:00Z')")
        connection.exec_driver_sql("INSERT INTO cost VALUES (1, 'score', 5000000)")
    engine.dispose()
    engine = open_database(path)
    (attempt,) = Ledger(engine).attempts()
    assert (attempt.costs, attempt.tokens) == ({"score": 5.0}, {})
    with pytest.raises(IntegrityError, match="costs never change"), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cost SET tokens = 7")
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cost (mine)")
    connection.close()
    with pytest.raises(StorageError, match="table cost already exists"):
        open_database(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("cost",)]
    connection.close()


def test_migrating_is_silent(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger("storage").isEnabledFor(logging.INFO)
    open_database(path).dispose()
    assert capfd.readouterr() == ("", "")
    assert before == (list(logging.getLogger().handlers), logging.getLogger("storage").isEnabledFor(logging.INFO))


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = ("torch", "alembic", "pandas", "matplotlib", "plotly")
    code = f"import sys, storage.trials; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "[]\n"


# Backup


def test_a_backup_is_what_was_committed(engine: Engine, path: Path, holder: Holder) -> None:
    spend(engine, holder, 10)
    with engine.begin() as connection:  # a writer is at work
        connection.exec_driver_sql("UPDATE attempt SET reason = 'not yet'")
        assert backup(path) == backup_path(path)
    with sqlite3.connect(backup_path(path)) as saved:
        assert saved.execute("SELECT reason FROM attempt").fetchall() == [("",)]
        assert saved.execute("SELECT sum(microseconds) FROM entry").fetchall() == [(10_000_000,)]
        triggers = saved.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()
    saved.close()
    assert triggers == (8,)


def test_a_backup_replaces_the_last_one_and_what_a_kill_left(engine: Engine, path: Path, holder: Holder) -> None:
    path.with_name(".study.db.backup.tmp").write_text("killed in the middle")
    backup(path)
    spend(engine, holder, 10)
    backup(path)
    with sqlite3.connect(backup_path(path)) as saved:
        assert saved.execute("SELECT count(*) FROM attempt").fetchall() == [(1,)]
    saved.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["study.db", "study.db.backup"]


def test_a_backup_without_room_leaves_the_last_one(engine: Engine, path: Path, holder: Holder) -> None:
    backup(path)
    saved = backup_path(path).read_bytes()
    spend(engine, holder, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved) // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"study\.db can"):
            backup(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert backup_path(path).read_bytes() == saved
    assert sorted(p.name for p in path.parent.iterdir()) == ["study.db", "study.db.backup"]


def test_a_backup_of_a_damaged_database_leaves_the_last_one(engine: Engine, path: Path) -> None:
    engine.dispose()
    backup(path)
    saved = backup_path(path).read_bytes()
    damage(path, "overwritten")
    with pytest.raises(StorageError, match="damaged"):
        backup(path)
    assert backup_path(path).read_bytes() == saved
