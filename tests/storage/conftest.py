"""A study database in a folder of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from storage.db import open_database
from storage.ledger import Holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a study database may be made."""
    return tmp_path / "study.db"


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """The same in memory where the system has such a folder, for tests in which nothing depends on the disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name) / "study.db"


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    """A fresh, migrated study database."""
    engine = open_database(path)
    yield engine
    engine.dispose()


@pytest.fixture
def holder() -> Holder:
    """This process."""
    return Holder.of_process(os.getpid())


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that all may read and enter; until the test ends, this process is an unprivileged user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        privileged = os.geteuid() == 0
        if privileged:
            os.seteuid(65534)
        yield folder
        if privileged:
            os.seteuid(0)
