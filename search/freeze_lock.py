"""What the lock beside a final_run.py holds at the time of the freeze (train.lock says what for)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from search import survey
from search.config import StudyConfig
from search.errors import MachineUnfit
from train import environment, lock
from train.base import BaseFacts, own_chat_template
from train.data.sources import SourceFacts
from train.digests import file_digests
from train.recipe import Recipe
from train.rules import Rules
from train.rundir import Json
from train.shards import weight_files


def composed(
    config: StudyConfig, recipe: Recipe, base: BaseFacts, data: dict[str, SourceFacts], objective: Json, rules: Rules
) -> Json:
    """The whole lock of a run; the same for the same study in the same environment."""
    found = environment.packages()
    return lock.sealed(
        {
            "recipe_sha256": recipe.digest,
            "python": environment.python(),
            "machine": {**environment.machine(), "gpu": _gpu(config)},
            "inputs": {
                "base": _base(recipe, base, rules),
                "data": {source.name: _source(recipe, data, source.name, rules) for source in recipe.sources},
                "prompts": {"path": objective["prompts"], "sha256": objective["prompts_sha256"]},
            },
            "chat_template": _template(recipe, base),
            "seed": recipe.seed,
            "packages": {name: package.model_dump(mode="json") for name, package in found.items()},
        }
    )


def _gpu(config: StudyConfig) -> Json | None:
    """The card that the study's trials ran on, where this machine has one."""
    if config.machine.device == "cuda":
        with suppress(MachineUnfit):
            return asdict(survey.card())
    return None


def _base(recipe: Recipe, base: BaseFacts, rules: Rules) -> Json:
    folder = Path(str(base.folder))
    files = file_digests(folder, weight_files(folder, from_hub=base.revision is not None))
    return {
        "model": recipe.base.model,
        "revision": recipe.base.revision,
        "sha256": base.sha256,
        "files": files,
        "tuned": base.tuned,
        "licence": rules.licences["base"].model_dump(mode="json"),
    }


def _source(recipe: Recipe, data: dict[str, SourceFacts], name: str, rules: Rules) -> Json:
    (source,) = [source for source in recipe.sources if source.name == name]
    facts = data[name].model_dump(mode="json", include={"sha256", "rows_read", "rows", "removed", "left_out"})
    place = source.model_dump(mode="json", include={"path", "hub", "revision", "split"})
    return {**place, **facts, "licence": rules.licences[name].model_dump(mode="json")}


def _template(recipe: Recipe, base: BaseFacts) -> Json:
    text = recipe.chat_template or own_chat_template(Path(str(base.folder)))
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text else None
    return {"by": "the recipe" if recipe.chat_template else "the tokenizer", "sha256": sha256, "text": text}
