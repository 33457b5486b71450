"""The search half of a study's prompts, in a file of its own: the only prompts that a trial's process is told of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from objectives.score import Prompt
from train.rundir import write_atomic

FILE = "prompts.jsonl"


def digest(half: Sequence[Prompt]) -> str:
    """SHA-256 of the file that `keep` writes for this half."""
    return hashlib.sha256(_text(half).encode()).hexdigest()


def keep(folder: Path, half: Sequence[Prompt]) -> Path:
    """Have `folder`/prompts.jsonl hold exactly this half; returns its path.

    It is written once. Later calls compare, and put right a file that is gone or was edited: which half it is belongs
    to the study's identity.
    """
    path, text = folder / FILE, _text(half)
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomic(path, text)
    return path


def count(folder: Path) -> int:
    """How many prompts the search half of the study in that folder has."""
    path = folder / FILE
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _text(half: Sequence[Prompt]) -> str:
    return "".join(prompt.model_dump_json() + "\n" for prompt in half)
