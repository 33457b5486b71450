"""Makes the finished adapter's folder, so that it is whole whenever it is there."""

from __future__ import annotations

import os
import shutil
from typing import Any

from train.model import write_adapter
from train.rundir import RunDir, fsync_folder


def save_adapter(model: Any, run: RunDir) -> None:
    """Write the finished adapter so that run.adapter is whole whenever it is there."""
    staged = run.path / f".tmp-{run.adapter.name}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    write_adapter(model, staged)
    for path in staged.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    fsync_folder(staged)
    shutil.rmtree(run.adapter, ignore_errors=True)  # of an attempt that ended before its result was written
    os.replace(staged, run.adapter)
    fsync_folder(run.path)
