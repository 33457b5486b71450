"""The study database: engines with this project's settings, opening, migrations and backup. SQLite only, for now.

One file holds Optuna's tables and ours. Settings (see `settings`): journal DELETE, synchronous EXTRA, foreign keys on,
busy timeout 60 s, BEGIN IMMEDIATE for whoever may write. With them two processes never claim the same queued trial, and
a commit that was acknowledged survives a power cut.

This process must not open and close the database file by other means than SQLite: closing any descriptor of it drops
the locks of every connection (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import CreateEnginePlugin

from storage.file import (
    BUSY_S,
    HEAD,
    VERSION_TABLE,
    StorageError,
    backup_path,
    connect,
    damaged,
    file_uri,
    newer,
    refuse_network,
    require_content,
    require_schema,
    restore_hint,
    roll_back,
    storage_errors,
    unwritable,
    verifies,
)

__all__ = [
    "PLUGIN",
    "StorageError",
    "backup",
    "backup_path",
    "check",
    "engine",
    "migrate",
    "open_database",
    "path_of",
    "read_only_engine",
    "read_only_url",
    "read_write_url",
    "settings",
    "storage_errors",
]

PLUGIN = "nightshift"


class SettingsPlugin(CreateEnginePlugin):
    """Gives `settings` to an engine that somebody else creates: `create_engine(url, plugins=[PLUGIN])`."""

    def update_url(self, url: URL) -> URL:
        """Called by SQLAlchemy first; the URL stays as it is."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Called by SQLAlchemy before the engine's first connection."""
        settings(engine)


plugins.register(PLUGIN, __name__, SettingsPlugin.__name__)


def settings(engine: Engine) -> None:
    """Attach this project's SQLite settings to every later connection and transaction of `engine`.

    An engine whose URL says mode=ro begins plain transactions: each sees one snapshot and none holds up a writer for
    longer than it reads. So does a transaction inside another one of the same thread, which may then only read: Optuna
    begins such ones when it compares versions, and with IMMEDIATE they would wait for themselves.
    """
    outer = _Outermost()
    read_only = engine.url.query.get("mode") == "ro"
    pragmas = ["foreign_keys=ON", "mmap_size=0"]
    if not read_only:
        pragmas += ["journal_mode=DELETE", "synchronous=EXTRA"]

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # no BEGIN of the driver's own
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        plain = read_only or not outer.is_now(connection)
        connection.exec_driver_sql("BEGIN" if plain else "BEGIN IMMEDIATE")


class _Outermost(threading.local):
    """Remembers which connection began the outermost transaction of a thread."""

    def __init__(self) -> None:
        self._held: Callable[[], Connection | None] = lambda: None

    def is_now(self, connection: Connection) -> bool:
        """Whether `connection`, about to begin, is inside no other one's transaction; from then on it is the one."""
        held = self._held()
        if held is not None and held is not connection and held.in_transaction():
            return False
        self._held = weakref.ref(connection)
        return True


def read_write_url(path: Path) -> str:
    """The SQLAlchemy URL of an existing database; connecting never creates one."""
    return _url(path, "rw")


def read_only_url(path: Path) -> str:
    """A SQLAlchemy URL through which nothing can be written, for the dashboard.

    Call `check` first: a read-only connection cannot roll back what a power cut left half-written.
    """
    return _url(path, "ro")


def engine(path: Path) -> Engine:
    """An engine on an existing database, with our settings. Give a path, not an engine, to a spawned process."""
    return create_engine(read_write_url(path), plugins=[PLUGIN])


def read_only_engine(path: Path) -> Engine:
    """An engine that can only read, for status; works while another process writes.

    Raises StorageError where there is no database, or one of another schema. Pages are not checked: use `check`.
    """
    require_content(path)
    roll_back(path)
    reader = create_engine(read_only_url(path), plugins=[PLUGIN])
    with storage_errors(path), reader.connect() as connection:
        require_schema(path, _version(connection))
    return reader


def path_of(engine: Engine) -> Path:
    """The file behind an engine of this module."""
    assert engine.url.database is not None, engine.url
    return Path(os.fsdecode(unquote_to_bytes(engine.url.database.removeprefix("file:"))))


def _url(path: Path, mode: str) -> str:
    query = {"mode": mode, "timeout": str(BUSY_S), "uri": "true"}
    # SQLAlchemy quotes it once more where it will unquote it once more (from 2.1 on)
    return URL.create("sqlite", database=file_uri(path), query=query).render_as_string()


def open_database(path: Path) -> Engine:
    """Open the database for writing, making and migrating it where needed. Its folder must be there.

    Raises StorageError before anything is written: network disk, unwritable, damaged, newer schema.
    """
    refuse_network(path.parent)
    _require_writable(path)
    if path.exists():
        check(path)
    elif backup_path(path).exists():
        raise StorageError(f"{path} is gone. {restore_hint(path)}")
    else:
        path.touch()
    writer = engine(path)
    with storage_errors(path):
        migrate(writer)
    return writer


def check(path: Path) -> None:
    """Raise StorageError where the database is missing, damaged, unreadable or of a newer schema.

    Reads every page; writes nothing, but for the rollback of what a power cut left half-written.
    """
    require_content(path)
    roll_back(path)
    reader = create_engine(read_only_url(path), plugins=[PLUGIN])
    try:
        with storage_errors(path), reader.connect() as connection:
            complaint = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if complaint != "ok":
                raise damaged(path, complaint)
            if (version := _version(connection)) is not None and version > HEAD:
                raise newer(path, version)
    finally:
        reader.dispose()


def migrate(engine: Engine) -> None:
    """Bring our tables to the newest schema, in one transaction; does nothing where they are there already.

    Raises StorageError where the schema is newer than this program knows. Optuna's tables are not ours to migrate.
    """
    with engine.connect() as connection:
        version = _version(connection)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise newer(path_of(engine), version)
    from alembic import command  # 0.1 s, seldom needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    """The schema's revision; None where our tables were never made."""
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
    if not connection.exec_driver_sql(tables, (VERSION_TABLE,)).scalar_one():
        return None
    version: str | None = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    return version


def _require_writable(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise StorageError(
            f"The folder of the study database {path} is not there. Make it: mkdir -p {shlex.quote(str(folder))}"
        )
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} should be a study database and is no file. Move it away.")
    for place in (folder, path) if path.exists() else (folder,):
        if not os.access(place, os.W_OK | (os.X_OK if place is folder else os.R_OK), effective_ids=True):
            raise unwritable(place)


def backup(path: Path) -> Path:
    """Copy the database, verify the copy, and put it in the place of the last backup; returns where that is.

    Works while another process writes. Killed or out of space at any instant, it leaves the last backup whole.
    Raises StorageError where the copy cannot be made or does not verify.
    """
    target, staged = backup_path(path), path.with_name(f".{path.name}.backup.tmp")
    require_content(path)
    roll_back(path)
    try:
        with storage_errors(path), closing(connect(path, "ro")) as connection:
            staged.unlink(missing_ok=True)
            connection.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(os.path.abspath(staged)),))
        if not verifies(staged):
            raise damaged(path, "a copy of it does not verify")
        _fsync(staged)
        os.replace(staged, target)
        _fsync(target.parent)
    finally:
        staged.unlink(missing_ok=True)
    return target


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
