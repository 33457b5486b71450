"""Files that the loop leaves in a study's folder for whoever looks on, so that a look computes nothing.

The next start writes them anew, so one that is damaged, or of another version, says nothing.
"""

from __future__ import annotations

from pathlib import Path

from train.rundir import Damaged, Json, read_json, write_json


def keep(path: Path, told: Json) -> None:
    """Leave that there, where it is not there yet."""
    if kept(path) != told:
        write_json(path, told)


def kept(path: Path) -> Json:
    """What was left there; nothing where there is no file, or none that is whole."""
    try:
        return read_json(path) or {}
    except Damaged:
        return {}
