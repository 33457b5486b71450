"""study.toml -> StudyConfig: what to search, on what, with which means. Every error of a file at once, with its place.

`load` reads the file and nothing else. Whether the model, the data and the prompts that it names are there and fit to
be used is the business of search.survey.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from search import checks, studyfile
from search.parameters import UNSEARCHABLE, WEIGHT, Parameter, field_of, parse, unsearchable
from search.sections import (
    AUTO,
    FinalSection,
    Frozen,
    MachineSection,
    ObjectiveSection,
    Prior,
    PrunerSection,
    StudySection,
)
from search.studyfile import Loc, StudyFile, Table, nearest, spelled
from search.validation import build, value_of
from train.recipe import Base, Probe, Recipe, Source

__all__ = ["Prior", "PrunerSection", "StudyConfig", "load"]

ELSEWHERE = ("base", "sources", "probe", "seed", "threads")  # Recipe fields that [recipe] does not set
FIXABLE = tuple(name for name in Recipe.model_fields if name not in ELSEWHERE)
SECTIONS = ("study", "machine", "base", "data", "probe", "objective", "recipe", "space", "prior", "pruner", "final")
RELATIVE_TO = "relative_to"

Section = TypeVar("Section", bound=BaseModel)


class StudyConfig(Frozen):
    """One study.toml, checked. Paths are absolute; `text` is the file itself."""

    path: Path
    text: Annotated[str, Field(repr=False)]
    study: StudySection
    machine: MachineSection
    base: Base
    data: tuple[Source, ...]
    probe: Probe
    objective: ObjectiveSection
    recipe: dict[str, Any]
    space: dict[str, Parameter]
    prior: tuple[Prior, ...]
    pruner: PrunerSection
    final: FinalSection

    @property
    def portable_text(self) -> str:
        """The file's text for a copy in another folder: it says which folder its relative paths start from."""
        if RELATIVE_TO in tomllib.loads(self.text):
            return self.text
        folder = json.dumps(str(self.path.resolve().parent), ensure_ascii=False)
        return f"{RELATIVE_TO} = {folder}  # the folder of the file that this was copied from\n{self.text}"


def load(path: Path) -> StudyConfig:
    """Read a study file. Raises ConfigError with every problem of the file, one line each."""
    file = studyfile.read(path)
    for key in file.table:
        if key not in (*SECTIONS, RELATIVE_TO):
            file.add((key,), f"unknown section; {nearest(key, SECTIONS)}")
    folder = _folder(file)
    data = _data(file, folder)
    space = _space(file)
    fixed = _recipe(file)
    read: dict[str, Any] = {
        "study": _section(file, "study", StudySection),
        "machine": _section(file, "machine", MachineSection, optional=True),
        "base": _base(file, folder),
        "probe": _section(file, "probe", Probe, optional=True),
        "objective": _objective(file, folder),
        "prior": _priors(file, space),
        "pruner": _section(file, "pruner", PrunerSection, optional=True),
        "final": _section(file, "final", FinalSection, optional=True),
    }
    checks.check(file, data, read["probe"], fixed, space, read["prior"], _broken(file, data, fixed, space))
    checks.check_licences(file, data, read["final"])
    file.raise_problems()
    return StudyConfig(path=path, text=file.text, data=data, recipe=fixed, space=space, **read)


def _broken(
    file: StudyFile, data: tuple[Source, ...], fixed: dict[str, Any], space: dict[str, Parameter]
) -> frozenset[str]:
    """The keys of [recipe] and [space] that could not be read, and "data" where a data set could not, or has no name
    of its own."""
    given = {*(_table(file, "recipe") or {}), *_flat(_table(file, "space") or {})}
    whole = data and len({source.name for source in data}) == len(_entries(file, "data"))
    return frozenset(given - set(fixed) - set(space) | (set() if whole else {"data"}))


def _section(file: StudyFile, name: str, model: type[Section], *, optional: bool = False) -> Section | None:
    if name not in file.table and not optional:
        needed = [key for key, info in model.model_fields.items() if info.is_required()]
        file.add((name,), f"the section is missing; it needs {', '.join(needed)}")
        return None
    raw = _table(file, name)
    return None if raw is None else build(model, raw, file, (name,))


def _table(file: StudyFile, name: str) -> Table | None:
    raw = file.table.get(name, {})
    if isinstance(raw, dict):
        return raw
    file.add((name,), f"this must be one table; write [{name}] on a line of its own, and its keys below")
    return None


def _entries(file: StudyFile, name: str) -> list[tuple[Loc, Table]]:
    """The tables of an array of tables, each with its place."""
    raw = file.table.get(name, [])
    if isinstance(raw, list) and all(isinstance(entry, dict) for entry in raw):
        return [((name, number), entry) for number, entry in enumerate(raw)]
    file.add((name,), f"there may be several of these; write [[{name}]] with two brackets")
    return []


def _folder(file: StudyFile) -> Path:
    """Where relative paths start: the file's own folder, unless the file names another one."""
    given = file.table.get(RELATIVE_TO)
    if given is None:
        return file.path.resolve().parent
    if isinstance(given, str) and Path(given).is_absolute():
        return Path(given)
    file.add((RELATIVE_TO,), "this must be the absolute path of a folder, in quotes")
    return file.path.resolve().parent


def _absolute(file: StudyFile, loc: Loc, path: str, folder: Path) -> str:
    try:
        return str((folder / (Path(path).expanduser() if path.startswith("~") else path)).resolve())
    except (OSError, RuntimeError, ValueError) as error:
        file.add(loc, f"no path can be made of this: {error}")
        return path


def _base(file: StudyFile, folder: Path) -> Base | None:
    """[base], its model as an absolute path where it is one; else it is a hub id."""
    base = _section(file, "base", Base)
    if base is None:
        return None
    path = _absolute(file, ("base", "model"), base.model, folder)
    is_path = base.model.startswith((".", "/", "~")) or base.model.count("/") > 1 or os.path.exists(path)
    return base.model_copy(update={"model": path}) if is_path else base


def _data(file: StudyFile, folder: Path) -> tuple[Source, ...]:
    sources = []
    for loc, raw in _entries(file, "data"):
        source = build(Source, raw, file, loc)
        sources += [_placed(file, loc, source, folder)] if source else []
    if "data" not in file.table or file.table["data"] == []:
        file.add(("data",), "no data set is given; add [[data]] with a name and a path")
    return tuple(sources)


def _placed(file: StudyFile, loc: Loc, source: Source, folder: Path) -> Source:
    """The source with absolute paths."""
    at = (*loc, "filters", "overlap_with")
    prompts = tuple(
        prompt.model_copy(update={"path": _absolute(file, at, prompt.path, folder)})
        for prompt in source.filters.overlap_with
    )
    changes: dict[str, Any] = {"filters": source.filters.model_copy(update={"overlap_with": prompts})}
    if source.path is not None:
        changes["path"] = _absolute(file, (*loc, "path"), source.path, folder)
    return source.model_copy(update=changes)


def _objective(file: StudyFile, folder: Path) -> ObjectiveSection | None:
    raw = file.table.get("objective")
    if isinstance(raw, dict) and isinstance(raw.get("prompts"), str):
        path = _absolute(file, ("objective", "prompts"), raw["prompts"], folder)
        file.table["objective"] = {**raw, "prompts": Path(path)}
    return _section(file, "objective", ObjectiveSection)


def _recipe(file: StudyFile) -> dict[str, Any]:
    """The fields of [recipe] that are valid."""
    fixed: dict[str, Any] = {}
    raw = _table(file, "recipe") or {}
    for key, value in raw.items():
        loc: Loc = ("recipe", key)
        if key in ELSEWHERE:
            file.add(loc, f"this is not set here: {UNSEARCHABLE[key]}")
        elif key not in FIXABLE:
            file.add(loc, f"unknown key; {nearest(key, FIXABLE)}")
        else:
            with file.noting(loc):
                fixed[key] = _fixed(key, value)
    if "examples" not in raw:
        file.add(("recipe",), "examples is missing: how many training examples a trial consumes, like examples = 1600")
    return fixed


def _fixed(key: str, value: object) -> Any:
    if key == "gradient_checkpointing" and isinstance(value, str):
        if value != AUTO:
            raise ValueError(f'{spelled(value)} is not known; it is true, false, or "{AUTO}": as little as fits')
        return AUTO
    return value_of(Recipe.model_fields[key], value)


def _space(file: StudyFile) -> dict[str, Parameter]:
    """The parameters of [space] that are valid."""
    raw = _flat(_table(file, "space") or {})
    if not raw:
        file.add(("space",), "the space is empty; add one parameter, like rank = { choices = [8, 16, 32] }")
    names = tuple(str(entry.get("name")) for _, entry in _entries(file, "data"))
    space: dict[str, Parameter] = {}
    for key, value in raw.items():
        loc: Loc = ("space", key)
        if problem := unsearchable(key, names):
            file.add(loc, problem)
            continue
        with file.noting(loc):
            space[key] = parse(key, value)
        if set_at := _fixed_at(file, key):
            file.add(loc, f"this is also set {set_at}; keep one of the two")
    return space


def _fixed_at(file: StudyFile, key: str) -> str:
    """Where else the file gives a searched parameter one fixed value, or an empty string."""
    if key in file.table.get("recipe", {}):
        return f"in [recipe] on line {file.places.line(('recipe', key))}"
    for loc, entry in _entries(file, "data"):
        if key == f"{WEIGHT}{entry.get('name')}" and "weight" in entry:
            return f"in [[data]] on line {file.places.line((*loc, 'weight'))}"
    return ""


def _flat(raw: Table) -> Table:
    """The table with `weight = { noisy = ... }`, which is what an unquoted weight.noisy means, as "weight.noisy"."""
    weights = raw.get("weight")
    if not isinstance(weights, dict):
        return raw
    return {k: v for k, v in raw.items() if k != "weight"} | {f"{WEIGHT}{k}": v for k, v in weights.items()}


def _priors(file: StudyFile, space: dict[str, Parameter]) -> tuple[Prior, ...]:
    searched = _flat(_table(file, "space") or {})
    priors = []
    for loc, raw in _entries(file, "prior"):
        params: dict[str, Any] = {}
        for key, value in _flat(raw).items():
            if key == "name":
                continue
            if key not in searched:
                file.add((*loc, key), f"[space] does not search this; {nearest(key, searched)}")
            elif key in space:
                with file.noting((*loc, key)):
                    params[key] = _prior_value(key, value, space[key])
        prior = build(Prior, {"params": params} | {key: raw[key] for key in ("name",) if key in raw}, file, loc)
        priors += [prior] if prior else []
    return tuple(priors)


def _prior_value(key: str, raw: object, parameter: Parameter) -> Any:
    value = value_of(field_of(key), raw)
    if not parameter.contains(value):
        raise ValueError(f"it is {spelled(value)}; [space] searches {parameter}")
    return value
