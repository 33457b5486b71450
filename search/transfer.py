"""What a study starts from when an earlier one has learned something, on another base model or other data.

Scores of two studies do not compare; which recipes were best may well carry over. So the earlier study's trials are
ranked among themselves, the one that won the final race or is expected to be best before all others, and the best few
that differ from each other are tried first in the new one, after its own priors. They are kept in the study's folder,
in `from.json`, which later nights go by.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search import finals_record, home
from search.config import StudyConfig
from search.errors import SearchError, StudyChanged
from search.parameters import Choice, IntRange, Parameter, Value, condition
from search.points import Points
from storage import records
from storage.records import TrialRecord
from train.rundir import read_json, write_json

FILE = "from.json"
PREFIX = "from "  # how the names of these priors begin; those of a study file hold no space
TAKEN = 5  # recipes, at most: a night has 20 to 60 trials
NEAR = 0.15  # of the square root of the number of parameters: closer recipes would teach the same
Params = dict[str, Value]


@dataclass(frozen=True)
class Taken:
    """A recipe in the new study's space, and the number of the earlier study's trial that it comes from."""

    trial: int
    params: Params


@dataclass(frozen=True)
class Earlier:
    """What was taken from the study in `folder` (an absolute path), the best recipe first."""

    folder: str
    recipes: tuple[Taken, ...]

    @property
    def study(self) -> str:
        """The name of the earlier study."""
        return Path(self.folder).name

    @property
    def priors(self) -> dict[str, Params]:
        """The recipes by their names, like `from qwen-1b #12`."""
        return {f"{PREFIX}{self.study} #{recipe.trial}": recipe.params for recipe in self.recipes}

    def __str__(self) -> str:
        numbers = ", ".join(f"#{recipe.trial}" for recipe in self.recipes)
        return f"from {self.study}, these trials come after the priors: {numbers or 'none, all are priors already'}"


def find(argument: str) -> Path:
    """The folder of the study that a user means by a name, a folder or a file. Raises SearchError."""
    if not argument:
        raise SearchError("--from names no study, as an unset variable of a shell does; name one, or leave --from out")
    path = Path(argument)
    return path if (path / home.DATABASE).is_file() else home.folder(argument)


def read(source: Path, folder: Path, config: StudyConfig) -> Earlier:
    """The best of the study in `source`, for the one in `folder`. Writes nothing.

    Raises SearchError where there is nothing to take, StorageError where the database of `source` cannot be read.
    """
    without = f"Name another study, or leave --from out: nightshift start {shlex.quote(str(config.path))}"
    if source.resolve() == folder.resolve():
        raise SearchError(f"--from {source}: this is the study itself, which goes on from its own trials. {without}")
    if not (source / home.DATABASE).is_file():
        raise SearchError(f"--from {source}: this study has never been started. {without}")
    found = records.read(source / home.DATABASE).trials
    taken = finals_record.pick(source, found)
    best_first = sorted(ranked(found), key=lambda record: taken is None or record.number != taken.trial)
    if not best_first:
        raise SearchError(f"--from {source}: no trial of this study has been scored or has reached a rung. {without}")
    if not any(translated(record.params, config) for record in best_first):
        searched = ", ".join(config.space)
        raise SearchError(f"--from {source}: it has no value for anything searched here ({searched}). {without}")
    return Earlier(str(source.resolve()), chosen([Taken(r.number, _params(r)) for r in best_first], config))


def settled(folder: Path, given: Earlier | None, config: StudyConfig) -> Earlier | None:
    """What the study in `folder` starts from, kept there: `given` until a trial begins, from then on what it had.

    What was kept is fitted to a space that has changed since. Raises StudyChanged where trials began from something
    else. For the one service that holds the study.
    """
    kept = kept_in(folder)
    if given is None and kept is None:
        return None
    if _begun(folder):
        if given and (kept is None or given.folder != kept.folder):
            before = f"from {kept.study}" if kept else "without --from"
            raise StudyChanged(
                f"--from {given.study}: the trials of {config.study.name!r} began {before}, which cannot change any "
                f"more. Leave it out: nightshift start {shlex.quote(str(config.path))}, or give the study a new name."
            )
        return kept
    now = given or (Earlier(kept.folder, chosen(kept.recipes, config)) if kept else None)
    if now and now != kept:
        recipes = [{"trial": recipe.trial, "params": recipe.params} for recipe in now.recipes]
        write_json(folder / FILE, {"folder": now.folder, "recipes": recipes})
    return now


def kept_in(folder: Path) -> Earlier | None:
    """What the study in `folder` took from another one; None where it took nothing. Raises SearchError where that
    cannot be read."""
    path = folder / FILE
    try:
        found = read_json(path)
        return Earlier(found["folder"], tuple(Taken(**recipe) for recipe in found["recipes"])) if found else None
    except (ValueError, KeyError, TypeError, AssertionError):
        raise SearchError(
            f"{path} is damaged, which says what was taken from another study; put it back, or move it away: its "
            "trials are kept, and only where their recipes came from is forgotten"
        ) from None


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that say how good their recipe is, the best first: those with a value by it; below them, those that
    ended at a rung, by how far they came and then by their bits per byte there."""
    return sorted((trial for trial in trials if _rank(trial)), key=_rank, reverse=True)


def _rank(trial: TrialRecord) -> tuple[float, ...]:
    """Greater is better; empty for a trial that says nothing of its recipe."""
    if trial.state == "complete" and trial.value is not None:
        return 1.0, trial.value, 0.0, -trial.number
    if trial.state == "pruned" and trial.rungs and "infeasible" not in trial.user_attrs:
        last = max(trial.rungs)
        return 0.0, last, trial.rungs[last], -trial.number  # rungs hold minus the bits per byte
    return ()


def chosen(best_first: Sequence[Taken], config: StudyConfig) -> tuple[Taken, ...]:
    """The best few in the space of `config`, none of them a prior of its file or near a better one."""
    points = Points(config.space, config.recipe)
    apart = NEAR * math.sqrt(len(config.space))
    priors = [prior.params for prior in config.prior]
    found: list[Taken] = []
    there: list[np.ndarray] = []
    for recipe in best_first:
        params = translated(recipe.params, config)
        at = points.coordinates(points.places(params)[None])[0]
        if params and params not in priors and all(np.linalg.norm(at - other) >= apart for other in there):
            found.append(Taken(recipe.trial, params))
            there.append(at)
        if len(found) == TAKEN:
            break
    return tuple(found)


def translated(params: Mapping[str, records.Value], config: StudyConfig) -> Params:
    """As much of a recipe as the space of `config` can hold: numbers moved into its ranges; what it does not search,
    choices that it lacks and what would not matter left out."""
    held = {name: _held(config.space[name], value) for name, value in params.items() if name in config.space}
    found = {name: value for name, value in held.items() if value is not None}
    return {name: value for name, value in found.items() if _matters(name, found, config)}


def _matters(name: str, found: Params, config: StudyConfig) -> bool:
    needed = condition(name)
    if needed is None or (needed.on in config.space and needed.on not in found):  # which the sampler will choose
        return True
    return needed.holds(found.get(needed.on, config.recipe.get(needed.on)))


def _held(parameter: Parameter, value: records.Value) -> Value | None:
    """The nearest value that the parameter can take; None where there is none."""
    if isinstance(parameter, Choice):
        return parameter.choices[parameter.choices.index(value)] if value in parameter.choices else None
    if isinstance(value, (bool, str)) or value is None:
        return None
    near: float = min(max(value, parameter.low), parameter.high)
    if parameter.step:
        near = parameter.low + round((near - parameter.low) / parameter.step) * parameter.step
    return round(near) if isinstance(parameter, IntRange) else float(min(near, parameter.high))


def _params(trial: TrialRecord) -> Params:
    return {name: value for name, value in trial.params.items() if value is not None}


def _begun(folder: Path) -> bool:
    """Whether any trial of the study in `folder`, whose tables are there, has begun."""
    states = records.Brief((), lambda _: ())
    return any(trial.state != "waiting" for trial in records.read(folder / home.DATABASE, states).trials)
