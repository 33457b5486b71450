"""What `nightshift plan` is asked to plan: a study, or one recipe, wherever that is written down.

A recipe stands in a RunDir (its folder, or the recipe.json in it) or in a frozen final_run.py. What a recipe does not
say, its machine and its prompts, is taken from the study that it lies in, or from the defaults of one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from search import finals_record, home, plan_machine, plan_study, survey, view
from search.config import StudyConfig
from search.errors import SearchError
from search.sections import MachineSection, ObjectiveSection
from storage import records
from train.planning.plan import Answers
from train.recipe import Recipe
from train.rundir import Json, RunDir, read_json
from train.until import next_time

NO_PROMPTS = ObjectiveSection(prompts=Path(), stages=())
IFEVAL_PROMPTS = 541  # of a final run, which is scored on all of them


@dataclass(frozen=True)
class Alone:
    """One recipe, and what else decides its costs."""

    recipe: Recipe
    machine: MachineSection
    asked: Answers


def plans(
    subject: str,
    bases: Sequence[str],
    memory_gib: float | None,
    card: str | None,
    now: Callable[[], float] = time.time,
) -> tuple[list[plan_study.StudyPlan], list[float]]:
    """The plans of what a user names, on each of these base models or on its own; and the seconds that scores took.

    Raises SearchError or RecipeError for what cannot be read, planned, or made to fit.
    """
    alone = _alone(Path(subject))
    if alone is None:
        config, folder = home.study(subject)
        machine = plan_machine.machine(config.machine, memory_gib, card)
        elsewhere = bool(bases or memory_gib or card)  # what this machine took says nothing of another
        own = None if bases else plan_study.shapes(config.base, ())[0][1]
        so_far = _so_far(config, folder, survey.look_at_prompts(config, own), elsewhere, now())
        return plan_study.study_plans(config, bases, machine, so_far), _scored(folder / "runs")
    machine = plan_machine.machine(alone.machine, memory_gib, card)
    shapes = plan_study.shapes(alone.recipe.base, bases)
    made = [plan_study.recipe_plan(alone.recipe, base, facts, machine, alone.asked) for base, facts in shapes]
    return made, []


def _so_far(config: StudyConfig, folder: Path, half: int, elsewhere: bool, now: float) -> plan_study.SoFar:
    database, until, runs = folder / "study.db", config.study.until, folder / "runs"
    held = records.read(database) if database.exists() else None
    return plan_study.SoFar(
        runs=None if elsewhere else runs,
        ended=view.ended(held.trials) if held else 0,
        spent_s=held.spent_s if held else 0.0,
        tonight_s=next_time(until, now) - now if until else None,
        search_half=half,
        race_s=0.0 if elsewhere or held is None else finals_record.needed_s(config, runs, held.trials, half),
    )


def _alone(path: Path) -> Alone | None:
    """The recipe at `path`, or None where a study is meant."""
    if path.is_dir() and RunDir(path).recipe_path.is_file():
        return _of_run(RunDir(path).recipe_path)
    if path.suffix == ".json":
        return _of_run(path)
    return _frozen(path) if path.suffix == ".py" else None


def _of_run(path: Path) -> Alone:
    recipe = _parsed(_text(path), str(path))
    around = [folder / home.STUDY_FILE for folder in path.resolve().parents[1:3]]  # of runs/NNN, or of final
    study = next((file for file in around if file.is_file()), None)
    if study is None:
        return Alone(recipe, MachineSection(), plan_study.answers(NO_PROMPTS))
    config, _ = home.study(str(study))
    return Alone(recipe, config.machine, plan_study.answers(config.objective))


def _frozen(path: Path) -> Alone:
    from search import freeze  # imported late: it knows the database

    _text(path)
    frozen = freeze.constant(path)
    recipe, objective = _parsed(json.dumps(frozen["recipe"]), str(path)), frozen["objective"]
    asked = Answers(IFEVAL_PROMPTS, objective["batch_size"], plan_study.PROMPT_TOKENS, objective["max_new_tokens"])
    return Alone(recipe, MachineSection(device=frozen["device"]), asked)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SearchError(f"{path} does not exist; give a study.toml, a recipe.json or a final_run.py") from None
    except UnicodeDecodeError as error:
        raise SearchError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _parsed(text: str, where: str) -> Recipe:
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise SearchError(
            f"{where} holds no recipe of this version: {f'{place}: ' if place else ''}{first['msg']}; the recipe.json "
            "of a run, or a final_run.py, holds one"
        ) from None


def _scored(runs: Path) -> list[float]:
    """How long the scores of a study took so far."""
    results: list[Json | None] = [read_json(path) for path in sorted(runs.glob("*/result.json"))]
    return [float(found["seconds"]["score"]) for found in results if found and found.get("seconds", {}).get("score")]
