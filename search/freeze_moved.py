"""A trial's recipe with the places at which its base model, data and prompts lie now.

A recipe names what it is made of by places, and pins what lies there. Nothing that is learned depends on a place, and a
study is the same wherever its files are. So where study.toml now names another place for one of them, at which lies
what was pinned, that one is taken; else the place stays as it was in the trial.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from search import space
from search.config import StudyConfig
from train.planning.plan import inspect_base, inspect_sources
from train.recipe import Base, PromptFile, Recipe, RecipeError, Source


def found(recipe: Recipe, config: StudyConfig) -> Recipe:
    """The recipe with the places of today."""
    now = {source.name: source for source in space.sources(config)}
    sources = tuple(_source(held, now[held.name]) if held.name in now else held for held in recipe.sources)
    return recipe.model_copy(update={"base": _base(recipe.base, config.base), "sources": sources})


def lines(before: Recipe, after: Recipe) -> list[str]:
    """What was moved from where to where, a line each."""
    pairs = [("base", before.base.model, after.base.model)]
    for old, new in zip(before.sources, after.sources, strict=True):
        pairs.append((old.name, str(old.path or old.hub), str(new.path or new.hub)))
    told = "its content is the one that the trial was trained with"
    return [f"{name}: taken from {new} instead of {old}; {told}" for name, old, new in pairs if old != new]


def _base(held: Base, now: Base) -> Base:
    if held.sha256 is None or now.model == held.model:
        return held
    try:
        facts = inspect_base(now.model, now.revision, held.sha256)
    except RecipeError:  # it is not there, or another one
        return held
    return held.model_copy(update={"model": now.model, "revision": now.revision or facts.revision})


def _source(held: Source, now: Source) -> Source:
    overlap = tuple(_prompts(file, now.filters.overlap_with) for file in held.filters.overlap_with)
    held = held.model_copy(update={"filters": held.filters.model_copy(update={"overlap_with": overlap})})
    place = {key: getattr(now, key) for key in ("path", "hub", "revision", "split")}
    moved = held.model_copy(update=place)
    if held.sha256 is None or moved == held:
        return held
    try:
        inspect_sources([moved])
    except RecipeError:
        return held
    return moved


def _prompts(held: PromptFile, now: Iterable[PromptFile]) -> PromptFile:
    places = sorted({file.path for file in now})
    if held.path in places:
        return held
    return next((held.model_copy(update={"path": place}) for place in places if _holds(place, held.sha256)), held)


def _holds(place: str, sha256: str | None) -> bool:
    try:
        return hashlib.sha256(Path(place).read_bytes()).hexdigest() == sha256
    except OSError:
        return False
