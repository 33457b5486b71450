"""Which trial is frozen and why, and its run as it is read: the recipe with the places of today, the result."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from objectives.score import Measure
from search import finals_record, freeze_moved, split, standing
from search.config import StudyConfig
from search.errors import NothingToFreeze, SearchError
from search.finals_record import Pick
from storage.records import TrialRecord
from train.recipe import Recipe, RecipeError
from train.rundir import Json, RunDir, read_json


@dataclass(frozen=True)
class Best:
    """The trial that is frozen, its run's files, and why this one. `trained` is the recipe that it was trained with;
    `recipe` is the same with the places at which its files lie now."""

    record: TrialRecord
    run: RunDir
    trained: Recipe
    recipe: Recipe
    result: Json
    pick: Pick

    @property
    def score(self) -> Measure:
        """Prompt-level strict accuracy on the search's reference set."""
        return _score(self.result)


def best(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> Best:
    """The study's best trial. Raises NothingToFreeze without a complete one, SearchError where its files are gone, and
    RecipeError where a file or folder that it was trained with is not found."""
    pick = finals_record.pick(folder, records)
    if pick is None:
        told = ", ".join(f"{count} {state}" for state, count in sorted(states(records).items())) or "it has none"
        raise NothingToFreeze(
            f"no trial of the study {config.study.name!r} is complete ({told}); go on with "
            f"`nightshift start {config.path}`"
        )
    record = next(record for record in records if record.number == pick.trial)
    run = RunDir(folder / "runs" / f"{record.number:03d}")
    read = _read(run)
    if read is None:
        raise SearchError(
            f"{run.path}: the files of trial {record.number}, the best one, are not there any more, or not as this "
            "version writes them (recipe.json and result.json); put the folder back, or freeze with the version that "
            "ran the study"
        )
    trained, result = read
    found = Best(record, run, trained, freeze_moved.found(trained, config), result, pick)
    _check_there(found, folder)
    return found


def _read(run: RunDir) -> tuple[Recipe, Json] | None:
    """The recipe and the result of a run that has a score."""
    try:
        recipe, result = run.recipe(), read_json(run.result) or {}
        assert _score(result).n > 0
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None
    return recipe, result


def _score(result: Json) -> Measure:
    return Measure(**result["score"]["prompt_strict"])


def _check_there(found: Best, folder: Path) -> None:
    """Raise RecipeError where a file or folder that the trial was trained with lies nowhere."""
    model = Path(found.recipe.base.model)
    paths = [*([model] if model.is_absolute() else []), *(Path(folder, s.path) for s in found.recipe.sources if s.path)]
    for path in paths:
        if not path.exists():
            raise RecipeError(
                f"{path}, which trial {found.record.number} was trained with, is not there any more, and study.toml "
                "names no place at which the same lies now: put it back there, or name its new place in study.toml"
            )


def states(records: Sequence[TrialRecord]) -> Counter[str]:
    """How many trials ended, or stand, in which way."""
    return Counter("infeasible" if "infeasible" in r.user_attrs else r.state for r in records)


def picked(config: StudyConfig, folder: Path, records: Sequence[TrialRecord], pick: Pick) -> str:
    """What the final race says of what is frozen; without a winner, which trial is frozen instead, and why."""
    race = finals_record.kept(folder, records)
    if race and race.winner is not None:
        return str(race)
    frozen = f"frozen is {pick}"
    if race and not race.next:
        return f"{race}; {frozen}"
    if nothing := finals_record.nothing_to_ask(config, split.count(folder)):
        return f"{nothing}; {frozen}"
    if not config.study.finalists:
        return frozen
    count = min(config.study.finalists, len(standing.whole(records)))
    who = "the best trial was not asked" if count == 1 else f"the best {count} trials were not compared on"
    start = shlex.join(["nightshift", "start", str(config.path)])
    return f"{race or f'{who} fresh prompts yet'}; {frozen}; `{start}` goes on to that race"
