"""Answers kept on disk batch by batch, so that scoring that was killed goes on where it was. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from objectives.score import Answer, Frozen


class _Batch(Frozen):
    """One line of the file: which prompts, by their numbers, and how they were answered."""

    batch: tuple[int, ...]
    answers: tuple[Answer, ...]
    seconds: float
    halved: bool


class AnswerLog:
    """The answers to one list of prompts by one model: a JSONL file that grows by one durable line for each batch.

    The first line is `identity`, which holds everything that decides the answers: prompts, model, template, limits. A
    file of another identity counts as empty, and so does everything behind a line that a kill left torn; both are
    overwritten by the next `put`, not before.

    `seconds` is what the batches cost that were put or got so far. `halved`: one of them was made with half the batch
    size, because memory ran out; a caller sets it before it puts such a batch.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.seconds = 0.0
        self.halved = False
        self._path = path
        self._head = json.dumps({"identity": identity}, sort_keys=True).encode() + b"\n"
        self._batches: dict[tuple[int, ...], _Batch] = {}
        self._good = self._read()

    @property
    def kept(self) -> int:
        """How many answers there are."""
        return sum(len(batch) for batch in self._batches)

    def get(self, batch: list[int]) -> list[Answer] | None:
        """The answers to exactly this batch, in its order; None where they have not been kept."""
        kept = self._batches.get(tuple(batch))
        if kept is None:
            return None
        self.seconds += kept.seconds
        self.halved = self.halved or kept.halved
        return list(kept.answers)

    def put(self, batch: list[int], answers: Sequence[Answer], seconds: float = 0.0) -> None:
        """Keep a batch that took `seconds`. On disk when this returns."""
        assert len(batch) == len(answers), (len(batch), len(answers))
        kept = _Batch(batch=tuple(batch), answers=tuple(answers), seconds=seconds, halved=self.halved)
        line = kept.model_dump_json().encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "r+b" if self._path.exists() else "x+b") as file:
            if not self._good:
                line = self._head + line
            file.truncate(self._good)
            file.seek(self._good)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if not self._good:
            _fsync_folder(self._path.parent)
        self._good += len(line)
        self._batches[kept.batch] = kept
        self.seconds += seconds

    def _read(self) -> int:
        """Take in the batches that are whole; returns how many bytes of the file are good."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        if lines[:1] != [self._head]:
            return 0
        good = len(self._head)
        for line in lines[1:]:
            try:
                kept = _Batch.model_validate_json(line)
            except ValidationError:
                break
            if not line.endswith(b"\n") or len(kept.batch) != len(kept.answers):
                break
            self._batches[kept.batch] = kept
            good += len(line)
        return good


def _fsync_folder(folder: Path) -> None:
    """Make a new name in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
