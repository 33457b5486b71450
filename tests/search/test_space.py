"""The space at work: suggestions, the recipes they make, and the description by which studies are compared."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from search import config, home, space
from search.parameters import SEARCHABLE, UNSEARCHABLE, WEIGHT, Choice, FloatRange, IntRange, field_of, parse
from search.validation import value_of
from train.recipe import Recipe

NAMES = home.preset_names()


@pytest.fixture(scope="module", params=NAMES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> config.StudyConfig:
    return config.load(home.write_preset(request.param, tmp_path_factory.mktemp("preset")))


def suggestions(study: config.StudyConfig, seed: int, count: int) -> Iterator[dict[str, object]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        yield dict(space.suggest(searched.ask(), study))


def test_every_field_of_a_recipe_can_be_searched_or_says_why_not() -> None:
    assert set(SEARCHABLE) | set(UNSEARCHABLE) == set(Recipe.model_fields)
    assert not set(SEARCHABLE) & set(UNSEARCHABLE)


def test_every_suggestion_makes_a_valid_recipe_that_holds_it(study: config.StudyConfig) -> None:
    for params in suggestions(study, 0, 100):
        recipe = space.recipe(study, params)
        for name, value in params.items():
            if name.startswith(WEIGHT):
                weights = {source.name: source.weight for source in recipe.sources}
                assert weights[name.removeprefix(WEIGHT)] == value
            else:
                assert getattr(recipe, name) == value
        assert all(getattr(recipe, name) == value for name, value in study.recipe.items() if value != "auto")
        assert (recipe.seed, recipe.threads) == (study.study.seed, study.machine.threads)


def test_conditions_leave_out_what_would_not_matter(study: config.StudyConfig) -> None:
    seen = set()
    for params in suggestions(study, 1, 50):
        assert ("dpo_beta" in params) == ("dpo_learning_rate" in params) == (params["dpo_share"] > 0)  # type: ignore[operator]
        seen.add(params["dpo_share"] > 0)  # type: ignore[operator]
    assert seen == {True, False}


def test_optuna_takes_every_prior_as_it_is(study: config.StudyConfig) -> None:
    searched = optuna.create_study()
    for prior in study.prior:
        searched.enqueue_trial(prior.params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a value outside of the space
        for prior in study.prior:
            params = space.suggest(searched.ask(), study)
            assert {name: params[name] for name in prior.params} == prior.params
            space.recipe(study, params)


def test_without_parameters_a_recipe_is_made_of_first_values(study: config.StudyConfig) -> None:
    recipe = space.recipe(study, {})
    assert recipe.rank == study.space["rank"].first
    assert recipe == space.recipe(study, {})


def test_the_description_is_json_and_changes_with_the_space(study: config.StudyConfig) -> None:
    described = space.distributions(study)
    assert json.loads(json.dumps(described)) == described
    assert described["dpo_beta"]["when"] == "dpo_share > 0"
    narrowed = study.model_copy(update={"space": {**study.space, "rank": Choice(choices=(8,))}})
    assert space.distributions(narrowed) != described
    turned = study.model_copy(update={"space": dict(reversed(study.space.items()))})
    assert space.distributions(turned) == described


def test_parameters_become_what_the_recipe_holds(tmp_path: Path) -> None:
    assert parse("learning_rate", {"low": 1e-4, "high": 1}) == FloatRange(low=1e-4, high=1.0)
    assert parse("rows", {"low": 100, "high": 900, "log": True}) == IntRange(low=100, high=900, log=True)
    assert parse("dropout", {"choices": [0, 0.5]}) == Choice(choices=(0.0, 0.5))


FLOATS = st.floats(1e-6, 1.0)


@given(low=FLOATS, high=FLOATS, log=st.booleans(), share=st.floats(0, 1))
def test_a_range_that_parses_is_one_that_optuna_and_the_recipe_take(
    low: float, high: float, log: bool, share: float
) -> None:
    if low > high:
        with pytest.raises(ValueError, match="swap them"):
            parse("learning_rate", {"low": low, "high": high, "log": log})
        return
    parameter = parse("learning_rate", {"low": low, "high": high, "log": log})
    optuna.distributions.FloatDistribution(low, high, log=log)
    value = min(high, low + share * (high - low))
    assert parameter.contains(value)
    assert value_of(field_of("learning_rate"), value) == value
    assert not parameter.contains(high * 1.1)


@settings(deadline=None)
@given(low=st.integers(1, 50), steps=st.integers(0, 20), step=st.integers(1, 9), value=st.integers(1, 300))
def test_a_grid_contains_what_optuna_suggests_on_it(low: int, steps: int, step: int, value: int) -> None:
    high = low + steps * step
    parameter = parse("rank", {"low": low, "high": high, "step": step})
    assert parameter.contains(value) == (value in range(low, high + 1, step))
    assert optuna.distributions.IntDistribution(low, high, step=step)._contains(value) == parameter.contains(value)


def test_the_card_presets_chat_template_puts_every_prompt_before_its_answer() -> None:
    read = config.load(Path(str(home.__file__)).parent / "presets" / "rtx-4070-ti.toml")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
        read.recipe["chat_template"]
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n"}]
    prompt = template.render(messages=messages, eos_token="</s>", add_generation_prompt=True)
    whole = template.render(messages=[*messages, {"role": "assistant", "content": " Hello"}], eos_token="</s>")
    assert prompt == "Be brief.\n\n### Instruction:\nHi\n\n\n### Response:\n"
    assert whole == prompt + " Hello</s>\n"
