"""The RunDir: names and atomic files of one run's folder. Imports no torch.

Its files are the only interface between the service and the process that trains:

    service writes   recipe.json, job.json (the attempt and what is asked), lease.json, verdict.json, stop.json
    worker writes    events.jsonl (append-only), result.json, checkpoints/, adapter/, answers-N.jsonl, samples.jsonl

JSON files are replaced atomically, so a reader sees the old or the new one, never half of one. The last line of
events.jsonl may be torn by a kill; readers leave it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from train.recipe import Recipe, RecipeError

Json = dict[str, Any]
Made = TypeVar("Made")
PUT_BACK = "put the whole file back, or move it away"


class Damaged(RecipeError, ValueError):
    """A file of a run that cannot be read: `path`, what is `wrong` with it, and what can be done."""

    def __init__(self, path: Path, wrong: str, to_do: str = PUT_BACK) -> None:
        super().__init__(f"{path} is damaged, or of another version ({wrong}): {to_do}")
        self.path, self.wrong = path, wrong


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` with `text` so that a power cut leaves the old or the new content: fsync, rename, fsync folder."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(staged, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Json) -> None:
    """Replace `path` atomically with `value` as JSON; NaN and infinity are refused with ValueError."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, to_do: str = PUT_BACK) -> Json | None:
    """The object in `path`, or None where there is no such file. Raises Damaged, with what to do, for no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise Damaged(path, str(error), to_do) from None
    if not isinstance(value, dict):
        raise Damaged(path, "it holds no JSON object", to_do)
    return value


def taken(path: Path, take: Callable[[Json], Made], to_do: str = PUT_BACK) -> Made | None:
    """What `take` makes of the object in `path`, or None where there is no such file. Raises Damaged, with what to do,
    where `take` does not find in it what it looks for."""
    value = read_json(path, to_do)
    if value is None:
        return None
    try:
        return take(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Damaged(path, brief(error), to_do) from None


def brief(error: BaseException) -> str:
    """What an error says, on one line."""
    if isinstance(error, Damaged):
        return error.wrong
    if isinstance(error, KeyError):
        return f"it has no {error}"
    lines = [line.strip() for line in str(error).splitlines()]
    return f"{type(error).__name__}: {'; '.join(lines[:3])[:160]}"


@dataclass(frozen=True)
class RunDir:
    """The folder of one run, by name. Creating the object creates nothing on disk; `create` does."""

    path: Path

    def create(self, recipe: Recipe) -> None:
        """Make the folder with its recipe, or check that the recipe already there is the same one (idempotent)."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.recipe_path.exists():
            assert self.recipe() == recipe, f"{self.path} holds another recipe"
            return
        write_atomic(self.recipe_path, recipe.model_dump_json(indent=1) + "\n")

    def recipe(self) -> Recipe:
        """The recipe of this run. Raises Damaged for what is none of this version."""
        try:
            return Recipe.model_validate_json(self.recipe_path.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            what = str(first["msg"]).removeprefix("Value error, ")
            raise Damaged(self.recipe_path, f"{'.'.join(map(str, first['loc']))}: {what}") from None
        except UnicodeDecodeError as error:
            raise Damaged(self.recipe_path, str(error)) from None

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.json"

    @property
    def job(self) -> Path:
        """What the service asks of the worker, for one attempt."""
        return self.path / "job.json"

    @property
    def lease(self) -> Path:
        """Until when the attempt is paid, as a CLOCK_MONOTONIC reading of this boot."""
        return self.path / "lease.json"

    @property
    def verdict(self) -> Path:
        """The service's answer to the last rung."""
        return self.path / "verdict.json"

    @property
    def stop(self) -> Path:
        """Present: checkpoint at the next step and end the attempt."""
        return self.path / "stop.json"

    @property
    def result(self) -> Path:
        """How the last attempt ended."""
        return self.path / "result.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def samples(self) -> Path:
        """One JSON line a scored prompt: key, prompt, response and verdicts."""
        return self.path / "samples.jsonl"

    def answers(self, stage: int) -> Path:
        """The answers of one stage of scoring, batch by batch, for as long as scoring is not done."""
        return self.path / f"answers-{stage}.jsonl"

    def kept_answers(self) -> list[Path]:
        """The files of answers that are there now. Once scoring is done, samples.jsonl has what is in them."""
        return sorted(self.path.glob("answers-*.jsonl"))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The finished adapter in PEFT's format."""
        return self.path / "adapter"

    @property
    def clock(self) -> Path:
        """Process seconds used by a final run, prepaid."""
        return self.path / "clock.json"

    def append_event(self, event: Json) -> None:
        """Append one line to events.jsonl; ends a line that a kill left torn."""
        line = json.dumps(event, allow_nan=False)
        with open(self.events, "ab") as file:
            if file.tell() and not _ends_with_newline(self.events):
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def read_events(self) -> Iterator[Json]:
        """Every whole event so far, in order."""
        try:
            lines = self.events.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines[:-1]:
            if (event := parse_event(line)) is not None:
                yield event


def parse_event(line: bytes) -> Json | None:
    """One line of events.jsonl, or None for one that a kill tore and the next attempt ended."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
