"""Brings what a night needs, while there is a network: base model and tokenizer, data sets, nltk's punkt_tab.

Everything is looked at by the code that `nightshift start` looks with, which takes what the cache holds whole and asks
the hub for the rest. So what is told to be there is what a night without a network will find. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from objectives.score import Prompt
from objectives.sentences import NEED_PUNKT, fetch_punkt, punkt_available
from search import space
from search.config import StudyConfig
from search.errors import SearchError
from search.score_settings import GET_PROMPTS, PUBLISHED
from search.survey import read_prompts
from train.hub import held_bytes
from train.planning import plan
from train.recipe import RecipeError, Source
from train.rundir import RunDir, read_json

PUNKT = "nltk's punkt_tab"


@dataclass(frozen=True)
class Thing:
    """Something that a study needs, whether it was there already, and what there is to say of it."""

    name: str
    state: Literal["there", "brought", "failed", "not needed"]
    said: str

    @property
    def line(self) -> str:
        """As it is shown."""
        return f"{self.state:<11} {self.name}" + (f": {self.said}" if self.said else "")


def bring(config: StudyConfig, folder: Path) -> Iterator[str]:
    """Bring whatever the study in `folder` needs and lacks: one line for each thing, as soon as it is known.

    Called again, it goes on with what failed. Raises SearchError, after the last line, where something is missing.
    """
    failed = every = 0
    for thing in _things(config, folder):
        every, failed = every + 1, failed + (thing.state == "failed")
        yield thing.line
    if failed:
        raise SearchError(
            f"{failed} of {every} things {'is' if failed == 1 else 'are'} missing. Do what the lines say, and with a "
            f"network run this again: {_command('fetch', config)}"
        )
    yield f"\nA night needs no network now. Next:\n\n    {_command('start', config)}\n"


def notice(config: StudyConfig, folder: Path) -> str:
    """What a user should know before trials are scored without punkt_tab, or otherwise than the ones before; empty
    where there is nothing to say. Prompts that cannot be read are the business of search.survey."""
    try:
        prompts, _ = read_prompts(config.objective.prompts)
    except ValueError:
        return ""
    needing = _needing(prompts)
    if not needing:
        return ""
    where, before = f"{needing} of {len(prompts)} prompts have answers split into sentences", _judged_without(folder)
    if punkt_available():
        if not before:
            return ""
        return f"warning: {where}, by {PUNKT} now and without it in this study so far; a new study judges all alike"
    said = f"warning: {PUNKT} is not installed: {where}, by a fallback, and their scores say that they are not exact"
    return said + (", as this study's so far" if before else f". While there is a network: {_command('fetch', config)}")


def _things(config: StudyConfig, folder: Path) -> Iterator[Thing]:
    """What the study needs, in the order in which it is looked at."""
    yield _base(config)
    prompts, told = _prompts(config.objective.prompts)
    yield told
    for source in space.sources(config) if prompts else config.data:
        yield _data(source)
    yield _punkt(prompts, folder)


def _base(config: StudyConfig) -> Thing:
    model, name = config.base.model, "base model and tokenizer"
    before = held_bytes(model, "model")
    try:
        facts = plan.inspect_base(model, config.base.revision)
    except RecipeError as error:
        return Thing(name, "failed", str(error))
    at = f", commit {facts.revision}" if facts.revision else ""
    return _arrived(name, f"{model}{at}, {facts.parameters:,} parameters", held_bytes(model, "model") - before)


def _prompts(path: Path) -> tuple[tuple[Prompt, ...], Thing]:
    """The study's prompts, none where they cannot be read, and how that went."""
    try:
        prompts, _ = read_prompts(path)
    except ValueError as error:
        how = f" (IFEval's own: {GET_PROMPTS})" if path.name == PUBLISHED and not path.exists() else ""
        return (), Thing("prompts", "failed", f"{error}{how}")
    return prompts, Thing("prompts", "there", f"{len(prompts):,} in {path}")


def _data(source: Source) -> Thing:
    name = f"data {source.name}"
    before = held_bytes(source.hub, "dataset") if source.hub else 0
    try:
        facts = plan.inspect_sources([source])[source.name]
    except RecipeError as error:
        return Thing(name, "failed", str(error))
    brought = held_bytes(source.hub, "dataset") - before if source.hub else 0
    return _arrived(name, f"{facts.rows:,} of {facts.rows_read:,} rows of {source.hub or source.path}", brought)


def _arrived(name: str, said: str, brought: int) -> Thing:
    """Something that is there: whether `brought` bytes of it came over the network just now."""
    if brought <= 0:
        return Thing(name, "there", said)
    return Thing(name, "brought", f"{said}, {brought / 2**20:,.1f} MiB")


def _punkt(prompts: Sequence[Prompt], folder: Path) -> Thing:
    """Prompts that could not be read are taken to need it."""
    if prompts and not _needing(prompts):
        return Thing(PUNKT, "not needed", "none of the prompts has sentences counted")
    if punkt_available():
        return Thing(PUNKT, "there", "")
    if _judged_without(folder):
        return Thing(PUNKT, "not needed", "this study's scores were made without it, and all are to be judged alike")
    try:
        return Thing(PUNKT, "brought", fetch_punkt())
    except OSError as error:
        return Thing(PUNKT, "failed", f"nltk's server gave nothing ({error})")


def _needing(prompts: Sequence[Prompt]) -> int:
    """How many prompts have an instruction whose verdict needs punkt_tab."""
    return sum(not NEED_PUNKT.isdisjoint(prompt.instruction_id_list) for prompt in prompts)


def _judged_without(folder: Path) -> bool:
    """Whether the study has scored its base model without punkt_tab where that was needed."""
    result = read_json(RunDir(folder / "runs" / "base").result)
    return bool(result and result.get("score") and not result["score"]["exact"])


def _command(name: str, config: StudyConfig) -> str:
    return f"nightshift {name} {shlex.quote(str(config.path))}"
