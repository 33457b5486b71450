"""horizon.jsonl: the decisions about a run's end, in the order in which they were made. Imports no torch.

The first line names the recipe, and says of a run that takes another one's decisions that it does (`replayed`). A line
after it is one decision:

    step, sft_steps, steps, why     see train.horizon.Decision
    before                          `steps` until then
    seconds                         process seconds used

A line counts no more once a later one was made at the same step or before it: the steps in between were made again. The
last line of a run that was made to its end has that: `ended`, its last step.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from train.horizon import Decision, Why, as_json
from train.recipe import Recipe, RecipeError
from train.rundir import Json, parse_event, write_atomic

FILE = "horizon.jsonl"


class Decisions:
    """The file of one run's decisions. A line that a power cut tore is passed over."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self._recipe = path, recipe

    def read(self) -> list[Decision]:
        """The decisions that hold, by their steps. Raises RecipeError for a file of another recipe."""
        return holding(self.path, self._recipe)

    def append(self, decision: Decision, seconds: float, before: Decision | None = None) -> None:
        """Write a decision down, durably."""
        line = {**as_json(decision), "before": before.steps if before else None, "seconds": seconds}
        self._write([line] if self.path.exists() else [{"recipe_sha256": self._recipe.digest}, line])

    def end(self, step: int) -> None:
        """Write down that the run is made, up to `step`; once."""
        if not has_ended(self.path):
            self._write([{"ended": step}])

    @property
    def replayed(self) -> bool:
        """Whether they are another run's, to be taken again."""
        return any(line.get("replayed") for line in lines(self.path)[:1])

    def take(self, path: Path) -> None:
        """Have this run take the decisions in the file at `path` again, of a run of the same recipe that has ended.

        Raises RecipeError where that file is not of one, or where this run has begun with other decisions.
        """
        if not path.is_file():
            raise RecipeError(f"{path} is no file; name the horizon.jsonl in the folder final of the run to make again")
        if not holding(path, self._recipe) or not has_ended(path):
            raise RecipeError(
                f"{path} has no decisions of a run that was made to its end; name the horizon.jsonl of one"
            )
        taken = [line for line in lines(path) if "recipe_sha256" not in line]
        head: Json = {"recipe_sha256": self._recipe.digest, "replayed": True}
        if not self.path.exists():
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in [head, *taken]))
        elif lines(self.path) != [head, *taken]:
            away = shlex.join(["mv", str(self.path.parent), f"{self.path.parent}-old"])
            raise RecipeError(
                f"{self.path.parent} holds a run that does not take its decisions from {path}; move it away: {away}"
            )

    def _write(self, written: Sequence[Json]) -> None:
        with open(self.path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in written).encode())
            file.flush()
            os.fsync(file.fileno())


def holding(path: Path, recipe: Recipe) -> list[Decision]:
    """The decisions in the file at `path` that hold, by their steps; none where there is no file.

    Raises RecipeError where the file is of another recipe, or has a line that says what cannot be.
    """
    found: list[Decision] = []
    for line in lines(path):
        if line.get("recipe_sha256", recipe.digest) != recipe.digest:
            raise RecipeError(f"{path} has the decisions of another recipe; name the one of this final_run.py's run")
        if "step" in line:
            decision = _decision(line, path)
            found = [kept for kept in found if kept.step < decision.step]
            found.append(decision)
    if found and found[0].step != 0:
        raise RecipeError(f"{path} is damaged: it does not begin at step 0; put the whole file back")
    return found


def lines(path: Path) -> list[Json]:
    """All whole lines of the file at `path`; none where there is no file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [line for part in content.split(b"\n")[:-1] if (line := parse_event(part)) is not None]


def has_ended(path: Path) -> bool:
    """Whether the run whose decisions are in the file at `path` was made to its end."""
    return any("ended" in line for line in lines(path)[-1:])


def _decision(line: Json, path: Path) -> Decision:
    try:
        step, edge, steps, why = (line[key] for key in ("step", "sft_steps", "steps", "why"))
        if not all(type(value) is int for value in (step, edge, steps)) or why not in get_args(Why):
            raise ValueError(line)
        return Decision(step, edge, steps, why)
    except (KeyError, ValueError) as error:
        raise RecipeError(f"{path} is damaged ({error}): put the whole file back") from None
