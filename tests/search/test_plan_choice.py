"""Checkpointing that a study leaves to the plan: from study.toml to the RunDir and the frozen recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import made_study
import pytest

from search import config, freeze, home, plan_choice, space
from search.config import StudyConfig
from search.errors import ConfigError
from search.survey import Survey
from train.card import Card
from train.planning import plan
from train.recipe import Recipe
from train.rundir import RunDir

GIB = 2**30
AUTO = 'gradient_checkpointing = "auto"'


def study_file(folder: Path, *lines: str) -> Path:
    """The made study's file with these lines in [recipe]."""
    path = made_study.write_study_file(folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[recipe]\n", "\n".join(["[recipe]", *lines, ""])), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> made_study.MadeStudy:
    root = tmp_path_factory.mktemp("auto")
    return made_study.MadeStudy(study_file(root, AUTO), root / "studies" / "tiny", states="CC")


def test_the_recipe_of_a_trial_says_a_number_and_the_frozen_one_keeps_it(made: made_study.MadeStudy) -> None:
    recipe = RunDir(made.folder / "runs" / "000").recipe()
    assert (recipe.gradient_checkpointing, recipe.uncheckpointed_layers) == (False, 0)  # a CPU without a limit
    read, folder = home.study(str(made.folder))
    frozen = freeze.compose(read, folder)
    assert frozen["recipe"]["gradient_checkpointing"] is False
    why = "chosen by the plan: the most un-checkpointed layers that fitted the card"
    assert frozen["origin"]["values"]["uncheckpointed_layers"] == why
    assert frozen["origin"]["values"]["gradient_checkpointing"] == why


def on_a_card(made: made_study.MadeStudy, gib: float | None) -> tuple[StudyConfig, Survey]:
    """The same study with rows of 512 tokens, on Qwen2.5-7B and a card of 12 GiB, with that limit."""
    machine = made.config.machine.model_copy(update={"device": "cuda", "memory_gib": gib})
    card = Card(name="NVIDIA GeForce RTX 4070 Ti", memory_bytes=12 * GIB, driver="550.54.14")
    seen = replace(made.survey, base=plan.shape_of("Qwen/Qwen2.5-7B"), card=card)
    changes = {"machine": machine, "recipe": {**made.config.recipe, "max_length": 512}}
    return made.config.model_copy(update=changes), seen


def trial(read: StudyConfig, seen: Survey, **params: Any) -> Recipe:
    firsts = {name: parameter.first for name, parameter in read.space.items()}
    return space.recipe(read, {**firsts, **params}, seen)


def test_the_choice_follows_the_memory_and_the_parameters_alone(made: made_study.MadeStudy) -> None:
    def kept(gib: float | None, **params: Any) -> int:
        read, seen = on_a_card(made, gib)
        recipe = trial(read, seen, **params)
        assert recipe == trial(read, seen, **params)
        assert plan_choice.misfit(recipe, read, seen, plan_choice.limit_bytes(read, seen)) == ""
        return recipe.uncheckpointed_layers if recipe.gradient_checkpointing else 28

    assert 0 < kept(9.0) <= kept(10.0) < kept(11.5) <= kept(None) < 28  # None: all that the card has
    assert kept(80.0) == 28
    assert kept(10.0, rank=64) < kept(10.0, rank=4)


def test_what_does_not_fit_checkpoints_everything_and_says_what_would_fit(made: made_study.MadeStudy) -> None:
    read, seen = on_a_card(made, 6.0)
    recipe = trial(read, seen)
    assert (recipe.gradient_checkpointing, recipe.uncheckpointed_layers) == (True, 0)
    said = plan_choice.misfit(recipe, read, seen, plan_choice.limit_bytes(read, seen))
    assert "and may have 6.00 GiB: the largest batch that fits is micro_batch_size = 1 with max_length = " in said


def test_the_base_model_is_scored_with_a_recipe_that_no_limit_changes(made: made_study.MadeStudy) -> None:
    assert space.recipe(*_parts(*on_a_card(made, 6.0))) == space.recipe(*_parts(*on_a_card(made, 11.5)))


def _parts(read: StudyConfig, seen: Survey) -> tuple[StudyConfig, dict[str, Any], Survey]:
    return read, {}, seen


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('gradient_checkpointing = "some"',), '"some" is not known; it is true, false, or "auto": as little as fits'),
        ((AUTO, "uncheckpointed_layers = 2"), 'gradient_checkpointing = "auto" chooses it; leave it out'),
    ],
)
def test_what_is_no_choice_is_refused_with_its_line(tmp_path: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=r"study.toml:\d+: ") as caught:
        config.load(study_file(tmp_path, *lines))
    assert said in str(caught.value)
