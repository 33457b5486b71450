"""The rules of a final run: open licences, a base model as its base, and no prompts of the score in its data."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import made_study
import pytest

from search import config, rules, space, survey
from search.config import StudyConfig
from search.errors import ConfigError, RulesBroken
from train.base import BaseFacts
from train.data.sources import SourceFacts, inspect_sources
from train.recipe import Recipe, RecipeError
from train.rules import Rules, check

LICENCES = {"base": "MIT", "plain": "CC0-1.0", "chat": "CC0-1.0", "pairs": "CC0-1.0"}


@dataclass(frozen=True)
class World:
    """What the rules are asked of."""

    config: StudyConfig
    recipe: Recipe
    base: BaseFacts
    data: dict[str, SourceFacts]
    prompts_sha256: str

    def with_final(self, **final: Any) -> World:
        return replace(
            self, config=self.config.model_copy(update={"final": self.config.final.model_copy(update=final)})
        )

    def with_base(self, **base: Any) -> World:
        return replace(self, recipe=self.recipe.model_copy(update={"base": self.recipe.base.model_copy(update=base)}))

    def judged(self, *accepted: str) -> Rules:
        return rules.judged(self.config, self.recipe, self.base, self.data, self.prompts_sha256, accepted)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return opened(made_study.write_study_file(tmp_path_factory.mktemp("rules")))


def opened(file: Path) -> World:
    read = config.load(file)
    found = survey.survey(read)
    recipe = space.recipe(read, {**read.prior[0].params, "weight.chat": 0.5}, found)
    return World(read, recipe, found.base, inspect_sources(recipe.sources), found.prompts_sha256)


def test_stated_licences_are_kept_with_who_stated_them(world: World) -> None:
    found = world.judged()
    assert {name: str(licence) for name, licence in found.licences.items()} == {
        name: f"{licence}, as [final] states" for name, licence in LICENCES.items()
    }
    assert found.allow_overlap is False


def test_unknown_licences_are_all_asked_for_with_both_ways_on(world: World) -> None:
    with pytest.raises(RulesBroken) as raised:
        world.with_final(licences={"chat": "MIT"}).judged()
    message = str(raised.value)
    assert message.startswith("the licence of base (")
    assert "plain (" in message
    assert "chat (" not in message
    assert 'licences = { base = "SPDX-ID", plain = "SPDX-ID", pairs = "SPDX-ID" }' in message
    assert message.endswith("study.toml --accept-licence base --accept-licence plain --accept-licence pairs")


def test_what_is_accepted_passes_and_says_so(world: World) -> None:
    found = world.with_final(licences={"base": "MIT"}).judged("plain", "chat", "pairs")
    assert str(found.licences["plain"]) == "not known: accepted by whoever froze the run"
    assert found.licences["base"].by == "study"


def test_what_is_accepted_and_not_there_is_named(world: World) -> None:
    with pytest.raises(RulesBroken, match=r"--accept-licence dolly: .* it has base, plain, chat, pairs"):
        world.judged("dolly")


def test_a_known_base_has_its_licence_from_the_catalogue(world: World) -> None:
    licences = {name: text for name, text in LICENCES.items() if name != "base"}
    found = world.with_final(licences=licences).with_base(model="Qwen/Qwen2.5-3B").judged()
    assert found.licences["base"].by == "catalogue"
    assert "research and evaluation only" in found.licences["base"].terms


def test_a_chat_model_is_refused_or_told_of(world: World) -> None:
    tuned = replace(world, base=world.base.model_copy(update={"tuned": "its name, x-Chat, says Chat"}))
    with pytest.raises(RecipeError, match="is no base model, but tuned for chat already: its name, x-Chat"):
        tuned.judged()
    allowed = tuned.with_base(allow_instruct=True)
    told = check(allowed.recipe, allowed.base, world.data, world.prompts_sha256, allowed.judged().model_dump())
    assert told[0].endswith("is no base model, and allow_instruct let it pass: its name, x-Chat, says Chat")
    with pytest.raises(RecipeError, match="is no base model"):
        check(world.recipe, tuned.base, world.data, world.prompts_sha256, world.judged().model_dump())


def kept(world: World) -> World:
    """Its first source keeps what overlaps."""
    first, *others = world.recipe.sources
    first = first.model_copy(update={"filters": first.filters.model_copy(update={"overlap": "keep"})})
    return replace(world, recipe=world.recipe.model_copy(update={"sources": (first, *others)}))


def test_data_that_may_hold_the_prompts_of_the_score_are_refused_unless_that_is_meant(world: World) -> None:
    with pytest.raises(RulesBroken, match=r'plain may share text .*\(overlap = "keep"\)\. .* set allow_overlap = true'):
        kept(world).judged()
    meant = kept(world).with_final(allow_overlap=True)
    assert meant.judged().allow_overlap
    told = check(meant.recipe, meant.base, meant.data, meant.prompts_sha256, meant.judged().model_dump())
    assert told[-1].endswith('not looked for in the rows of plain, since overlap = "keep"')
    every = [source.model_copy(update={"filters": meant.recipe.sources[0].filters}) for source in meant.recipe.sources]
    loose = meant.recipe.model_copy(update={"sources": tuple(every)})
    told = check(loose, meant.base, meant.data, meant.prompts_sha256, meant.judged().model_dump())
    (line,) = (line for line in told if line.startswith("overlap"))
    assert line.endswith('not looked for in the rows of plain, chat, pairs, since overlap = "keep"')
    with pytest.raises(RecipeError, match=r"data source plain may share text .*; freeze it again"):
        check(meant.recipe, meant.base, meant.data, meant.prompts_sha256, world.judged().model_dump())


def test_data_that_were_compared_with_other_prompts_are_refused(world: World) -> None:
    with pytest.raises(RulesBroken, match="data source plain was not compared with the prompts of the score"):
        replace(world, prompts_sha256="0" * 64).judged()


def test_rows_that_share_text_with_the_prompts_are_removed_counted_and_told(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    shared = "one two three four five six seven eight"
    with open(tmp_path / "prompts.jsonl", "a") as prompts:
        asked = '"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]'
        prompts.write(f'{{"key": 99, "prompt": "Write {shared} backwards", {asked}}}\n')
    with open(tmp_path / "plain.jsonl", "a") as data:
        data.write(f'{{"prompt": "Please, {shared.upper()}!", "response": "a"}}\n' * 2)
        data.write(f'{{"prompt": "Say this", "response": "{shared}"}}\n')  # answers are not looked at
    world = opened(file)
    assert world.data["plain"].removed == {"duplicates": 1, "overlap": 1}
    told = check(world.recipe, world.base, world.data, world.prompts_sha256, world.judged().model_dump())
    assert told == [
        "overlap with the prompts of the score: 1 of 63 rows of plain left out",
        "overlap with the prompts of the score: 0 of 60 rows of chat left out",
        "overlap with the prompts of the score: 0 of 40 rows of pairs left out",
    ]


def test_a_run_without_a_frozen_licence_is_refused(world: World) -> None:
    held = world.judged().model_dump()
    del held["licences"]["chat"]
    with pytest.raises(RecipeError, match=r"the licence of chat \(.*chat\.jsonl\) was not frozen; freeze it again"):
        check(world.recipe, world.base, world.data, world.prompts_sha256, held)
    with pytest.raises(RecipeError, match="the rules in the frozen file are not valid"):
        check(world.recipe, world.base, world.data, world.prompts_sha256, {"licences": {"chat": "MIT"}})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('plain = "CC0', 'plane = "CC0', r"plane: no data source has this name; did you mean plain"),
        ('name = "plain"', 'name = "base"', r"base is what the base model is called"),
        ('base = "MIT"', "base = 3", r"licences\.base"),
        ('base = "MIT"', 'base = ""', r"licences\.base"),
    ],
)
def test_licences_in_a_study_file_are_read_with_it(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "study.toml"
    shutil.copy(made_study.write_study_file(tmp_path / "made"), file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=says):
        config.load(file)
