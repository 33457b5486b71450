"""The database file: where it and its backup lie, what can be wrong with it, and what its owner is told.

    StorageError       a database that its owner must look after: damaged, unwritable, locked, newer, on a network disk

A message says what is wrong, where, and the next command; of a damaged file also that it was left untouched and how the
newest backup that verifies comes back. The ledger's exceptions, which are decisions, stand in storage.ledger.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

VERSION_TABLE = "nightshift_version"  # Optuna's own `alembic_version` is in the same file
HEAD = "0002"  # the newest revision in migrations/versions
BUSY_S = 60

_NETWORK_FILESYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class StorageError(Exception):
    """A study database that cannot be used as it is: the message says what is wrong, where, and what to do next."""


def backup_path(path: Path) -> Path:
    """Where the backup of the database `path` lies: study.db.backup."""
    return path.with_name(path.name + ".backup")


def journal_path(path: Path) -> Path:
    """The rollback journal that SQLite keeps beside the database while it writes."""
    return path.with_name(path.name + "-journal")


def file_uri(path: Path) -> str:
    """An SQLite file: URI without parameters. Quoted, so that no character of a path can become one."""
    return "file:/" + quote(os.fsencode(os.path.abspath(path)).lstrip(b"/"))


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A plain connection in autocommit; `mode` is ro or rw, and neither makes a file."""
    return sqlite3.connect(f"{file_uri(path)}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None)


def verifies(path: Path) -> bool:
    """Whether `path` is a whole database with our tables."""
    if not path.is_file():
        return False
    try:
        with closing(connect(path, "ro")) as connection:
            whole = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return whole and connection.execute(f"SELECT count(*) FROM {VERSION_TABLE}").fetchone() == (1,)
    except sqlite3.Error:
        return False


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite complains of, also through SQLAlchemy or Optuna, into StorageError; let all else pass."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if (cause := _sqlite_cause(error)) is None:
            raise
        raise _explained(path, cause) from error


def _sqlite_cause(error: BaseException | None) -> sqlite3.Error | None:
    while error is not None and not isinstance(error, sqlite3.Error):
        error = error.__cause__
    return None if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError) else error


def _explained(path: Path, error: sqlite3.Error) -> StorageError:
    if not path.exists():
        return missing(path)
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StorageError(f"{path} was replaced while it was in use. Nothing more is written; start again.")
    code &= 0xFF
    if code in _DAMAGED:
        return damaged(path, str(error))
    if code in _REFUSED:
        return unwritable(path)
    if code in _BUSY:
        return StorageError(
            f"{path} is locked: another process has held it for {BUSY_S} s. Find it with: fuser {_shell(path)}"
        )
    if code == sqlite3.SQLITE_FULL:
        return StorageError(
            f"{path} cannot grow: the disk is full. Nothing that was recorded is lost; make room and start again."
        )
    return StorageError(
        f"{path} cannot be read or written: {error}. Nothing that was recorded is lost; see to the disk."
    )


def missing(path: Path) -> StorageError:
    """There is no file."""
    return StorageError(f"There is no study database at {path}. `nightshift start STUDY.toml` makes it.")


def unwritable(path: Path) -> StorageError:
    """The file or folder `path` is there, and its owner or mode forbids what is asked."""
    facts = path.stat()
    return StorageError(
        f"{path} cannot be opened for what is asked: it belongs to {_user(facts.st_uid)} with mode "
        f"{facts.st_mode & 0o7777:04o}, and this process runs as {_user(os.geteuid())}. "
        "Change its owner or mode, or its folder's, or set NIGHTSHIFT_HOME to a folder of your own."
    )


def damaged(path: Path, complaint: str) -> StorageError:
    """`complaint` is what SQLite, or its size, has against the file."""
    complaint = " ".join(complaint.removeprefix("*** in database main ***").split())
    return StorageError(f"{path} is damaged ({complaint}). The file was left untouched. {restore_hint(path)}")


def restore_hint(path: Path) -> str:
    """Which backup there is and the command to restore it. A journal left beside would spoil what is restored."""
    away = [
        f"mv {_shell(file)} {_shell(file.with_name(file.name + '.damaged'))}"
        for file in (path, journal_path(path))
        if file.exists()
    ]
    saved = backup_path(path)
    if not verifies(saved):
        away += [f"mv {_shell(saved)} {_shell(saved)}.damaged"] if saved.exists() else []
        return f"There is no backup of it that verifies. To begin anew: {' && '.join(away)}"
    when = datetime.fromtimestamp(saved.stat().st_mtime).isoformat(" ", "minutes")
    command = " && ".join([*away, f"cp {_shell(saved)} {_shell(path)}"])
    return f"The newest verified backup was written {when}; what was recorded later is lost. To restore it: {command}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def newer(path: Path, version: str) -> StorageError:
    """Our tables are of a version that this program does not know."""
    return StorageError(
        f"{path} was made by a newer Nightshift: its schema is {version}, and this one knows up to {HEAD}. "
        "The file was left untouched. Install that newer version: pip install -U nightshift"
    )


def _shell(path: Path) -> str:
    return shlex.quote(str(path))


def refuse_network(folder: Path) -> None:
    """SQLite's locks and syncs are not to be trusted on a network file system."""
    if name := _NETWORK_FILESYSTEMS.get(filesystem_type(folder)):
        raise StorageError(
            f"{folder} is on a network file system ({name}), where SQLite databases get damaged. "
            "Put the study on a local disk: set NIGHTSHIFT_HOME to a folder there."
        )


def filesystem_type(folder: Path) -> int:
    """The magic number of the file system that holds `folder`, as in statfs(2); 0 where it cannot be told."""
    if sys.platform != "linux":
        return 0
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).statfs(os.fsencode(folder), buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def require_content(path: Path) -> None:
    """A file that is there and may be a database. SQLite itself takes an empty one for a new database."""
    if not path.exists():
        raise missing(path)
    if not path.is_file():
        raise StorageError(f"{path} should be a study database and is no file. Move it away.")
    size = path.stat().st_size
    if 0 < size < 512 or (size == 0 and backup_path(path).exists()):
        raise damaged(path, f"truncated to {size} bytes")


def roll_back(path: Path) -> None:
    """Undo a transaction that a kill or power cut left half-written, which a read-only connection cannot do.

    Opening for writing is enough; a transaction that is alive in another process is left alone.
    """
    if not journal_path(path).exists():
        return
    with storage_errors(path), closing(connect(path, "rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()


def require_schema(path: Path, version: str | None) -> None:
    """Raise StorageError where our tables are not of the schema that this program reads (None: there are none)."""
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise newer(path, version)
    found = "no tables of ours" if version is None else f"schema {version}"
    raise StorageError(
        f"{path} holds {found}, and this program reads schema {HEAD}. `nightshift start` brings it there."
    )
