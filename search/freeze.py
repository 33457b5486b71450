"""The best trial -> final_run.py and its lock: what is frozen, and whether file and study still agree.

From the trial's recipe the freeze changes `examples`, the horizon, and the learning rates, which a longer horizon
wants lower; nothing else. The horizon is where the run begins: it is corrected on the way, as the pace is measured
(train.hours). Which trial it is says freeze_best, where its files lie now freeze_moved, how the file is written
freeze_file, what its lock holds freeze_lock, and where each value came from freeze_origins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives import positions
from objectives.score import ObjectiveError
from search import finals_record, freeze_best, freeze_lock, freeze_moved, freeze_spare, rules, transfer
from search.config import StudyConfig
from search.errors import FreezeDiffers
from search.freeze_best import Best
from search.freeze_file import FILE, TEMPLATE, code_sha256, command, constant, literal, render
from search.freeze_origins import changes, origins
from search.horizon import Correction, Horizon, corrections, examples_per_second, load_seconds, stretch
from search.view import base_score
from storage.records import TrialRecord, read
from train import lock, preflight
from train.environment import versions
from train.planning.plan import inspect_base, inspect_sources
from train.recipe import Recipe, RecipeError, digest_of
from train.rules import Rules, told
from train.rundir import Json, RunDir, write_atomic, write_json

__all__ = [
    "FILE",
    "TEMPLATE",
    "check",
    "compose",
    "constant",
    "freeze",
    "literal",
    "origins",
    "render",
]

Say = Callable[[str], None]


def freeze(config: StudyConfig, folder: Path, accepted: Collection[str] = (), say: Say = lambda _: None) -> Path:
    """Write the study's best trial as `folder`/final_run.py, and its lock, replacing what was frozen earlier; returns
    the file's path. `say` is told, a line at a time, what the licences ask and which rows were left out.

    `accepted` names the data sources (or "base") whose licence is not known and whose terms the user accepts.
    Raises FreezeDiffers where somebody edited what is there, or where the final run is begun or made with another
    recipe; NothingToFreeze without a complete trial; RulesBroken; StorageError, RecipeError or ObjectiveError where the
    database, the data or the prompts are not what they were.
    """
    path = folder / FILE
    freeze_spare.check_edited(folder)
    made = _made(config, folder, accepted)
    freeze_spare.check_run(folder, made.recipe)
    write_json(path.with_name(lock.FILE), made.lock)  # first: with a lock that is not its own, a file does not run
    write_atomic(path, render(made.frozen))
    for line in made.told:
        say(line)
    return path


def check(config: StudyConfig, folder: Path) -> None:
    """Raise FreezeDiffers, naming every difference, unless `folder`/final_run.py is what `freeze` would write now.

    The versions of the libraries are left out: the file itself compares those, and its lock, when it is run. So are how
    many trials there were, and what they raced: more of them change nothing as long as the best one is the same.
    """
    path = folder / FILE
    if not path.exists():
        raise FreezeDiffers(f"{path} is not there; {command(path)} writes it")
    written = constant(path)
    try:
        lock.read(written, path)
    except RecipeError as error:
        raise FreezeDiffers(f"{error}: {command(path)}") from None
    now = compose(config, folder)
    for value in (written, now):
        for key in ("versions", "lock_sha256", "sha256"):
            value.pop(key, None)
        for key in ("trials", "race", "picked"):
            value.get("origin", {}).pop(key, None)
    if differences := list(_told(written, now)):
        lines = "\n".join(f"  {line}" for line in differences)
        raise FreezeDiffers(f"{path} is not what the study says now; {command(path)} writes it anew:\n{lines}")


# What is frozen


def compose(config: StudyConfig, folder: Path, accepted: Collection[str] = ()) -> Json:
    """Everything that final_run.py holds for this study; the same for the same study."""
    return _made(config, folder, accepted).frozen


@dataclass(frozen=True)
class _Made:
    """What a freeze writes, of which recipe: the constant of final_run.py and its lock; and what it tells, a line
    each."""

    recipe: Recipe
    frozen: Json
    lock: Json
    told: tuple[str, ...]


def _made(config: StudyConfig, folder: Path, accepted: Collection[str]) -> _Made:
    records = read(folder / "study.db").trials
    best = freeze_best.best(config, folder, records)
    objective = _objective(config)
    base = inspect_base(best.recipe.base.model, best.recipe.base.revision, best.recipe.base.sha256)
    shown = preflight.template(best.recipe, base)
    positions.check_frozen(objective, config.objective.prompts, base.folder, shown, base.context)
    data = inspect_sources(best.recipe.sources)
    kept = rules.judged(config, best.recipe, base, data, objective["prompts_sha256"], _accepted(folder, accepted))
    rows = {name: facts.rows for name, facts in data.items()}
    loading = load_seconds(RunDir(folder / "runs" / "base"), best.run)
    horizon = stretch(best.recipe, rows, config.final, examples_per_second(best.run), loading)
    rates = corrections(best.recipe, horizon.examples, config.final)
    changed = {"examples": horizon.examples, **{name: rate.after for name, rate in rates.items()}}
    recipe = Recipe.model_validate_json(json.dumps({**best.recipe.model_dump(mode="json"), **changed}))
    locked = freeze_lock.composed(config, recipe, base, data, objective, kept)
    frozen = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.digest,
        "objective": objective,
        "device": config.machine.device,
        "hours": config.final.hours,
        "least_hours": horizon.least_hours,
        "longest": horizon.longest,
        "checkpoint_minutes": config.final.checkpoint_minutes,
        "origin": _origin(config, folder, records, best, horizon, rates),
        "rules": kept.model_dump(mode="json"),
        "versions": versions(),
        "code_sha256": code_sha256(),
        "lock_sha256": locked["sha256"],
    }
    return _Made(
        recipe,
        {**frozen, "sha256": digest_of(frozen)},
        locked,
        (
            freeze_best.picked(config, folder, records, best.pick),
            *freeze_moved.lines(best.trained, best.recipe),
            *told(recipe, base, data, kept),
        ),
    )


def _accepted(folder: Path, accepted: Collection[str]) -> set[str]:
    """What is accepted now, or was when the file that is there was frozen."""
    try:
        before = Rules.model_validate_json(json.dumps(constant(folder / FILE)["rules"])).licences
    except (OSError, FreezeDiffers, KeyError, ValueError):
        before = {}
    return {*accepted, *(name for name, licence in before.items() if licence.by == "accepted")}


def _objective(config: StudyConfig) -> Json:
    path = config.objective.prompts
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ObjectiveError(f"the prompts {path} cannot be read: {error.strerror}; put the file back") from None
    return {
        "prompts": str(path),
        "prompts_sha256": digest,
        "origin": "Put back the file that [objective] in the study names.",
        "max_new_tokens": config.final.max_new_tokens,
        "batch_size": config.objective.batch_size,
    }


def _origin(
    config: StudyConfig,
    folder: Path,
    records: Sequence[TrialRecord],
    best: Best,
    horizon: Horizon,
    rates: Mapping[str, Correction],
) -> dict[str, Any]:
    values = origins(config, best.record, transfer.kept_in(folder))
    values |= {name: f"{values[name]}; then corrected for the horizon" for name in rates}
    base = base_score(folder)
    return {
        "how": "searched",
        "study": config.study.name,
        "trial": best.record.number,
        "picked": str(best.pick),
        "prior": best.record.user_attrs.get("prior"),
        "recipe_sha256": best.trained.digest,
        "score": best.score.model_dump(),
        "race": finals_record.won(folder, records),
        "base_score": base.model_dump() if base else None,
        "trials": dict(sorted(freeze_best.states(records).items())),
        "values": values,
        "changes": changes(config, best.recipe, horizon, rates),
    }


# Differences


def _told(written: Json, now: Json) -> Iterator[str]:
    """The differences; where another trial is taken now, of its recipe alone, from which the others follow."""
    frozen, taken = (value.get("origin", {}).get("trial") for value in (written, now))
    if frozen == taken:
        yield from _differences(written, now)
        return
    yield f"origin.trial: {_short(frozen)} in {FILE}, and {_short(taken)} is the one to take now; of their recipes"
    yield from _differences(written["recipe"], now["recipe"], "recipe")


def _differences(written: Any, now: Any, name: str = "") -> Iterator[str]:
    """One line for each value that is not the same, by its dotted name."""
    if isinstance(written, dict) and isinstance(now, dict):
        for key in sorted(written.keys() | now.keys()):
            yield from _differences(written.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(written, list) and isinstance(now, list) and len(written) == len(now):
        for index, (left, right) in enumerate(zip(written, now, strict=True)):
            yield from _differences(left, right, f"{name}[{index}]")
    elif written != now:
        yield f"{name}: {_short(written)} in {FILE}, {_short(now)} in the study"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
