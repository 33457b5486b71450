"""What can be searched: a range for every parameter, and the conditions under which it matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from tiny import study_text

from search import config, space
from search.errors import ConfigError
from search.parameters import SEARCHABLE, UNSEARCHABLE, Choice, Condition, FloatRange, IntRange, condition, parse

RANGES: dict[str, Any] = {  # of every parameter a range that makes sense
    "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    "loraplus_ratio": {"low": 1.0, "high": 16.0, "log": True},
    "schedule": {"choices": ["cosine", "linear", "constant", "wsd"]},
    "warmup": {"low": 0.0, "high": 0.1},
    "decay": {"low": 0.1, "high": 0.5},
    "weight_decay": {"choices": [0.0, 0.01]},
    "max_grad_norm": {"low": 0.3, "high": 1.0},
    "optimizer": {"choices": ["adamw", "adamw_8bit"]},
    "adam_beta2": {"choices": [0.95, 0.99, 0.999]},
    "batch_size": {"choices": [4, 8]},
    "rank": {"low": 4, "high": 64, "step": 4},
    "alpha_ratio": {"choices": [0.5, 1, 2]},
    "dropout": {"low": 0, "high": 0.1},
    "targets": {"choices": ["all-linear", r".*\.(q|v)_proj"]},
    "use_rslora": {"choices": [True, False]},
    "use_dora": {"choices": [True, False]},
    "neftune_alpha": {"choices": [0, 5, 10, 15]},
    "rows": {"low": 20, "high": 100},
    "max_length": {"choices": [64, 128]},
    "dpo_share": {"choices": [0.0, 0.25]},
    "dpo_loss": {"choices": ["sigmoid", "ipo", "hinge"]},
    "dpo_beta": {"low": 0.05, "high": 0.5, "log": True},
    "dpo_learning_rate": {"low": 1e-6, "high": 1e-4, "log": True},
}


def toml(value: Any) -> str:
    """A range as study.toml writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else repr(value)


def study(tmp_path: Path, ranges: dict[str, Any], fixed: str = "") -> Path:
    """A study file that searches `ranges` and has the lines `fixed` in [recipe]."""
    filled = study_text(trials=2, budget_hours=1.0, final_hours=1.0)
    before, _, after = filled.partition("[space]")
    _, _, after = after.partition("[pruner]")
    lines = [f"{name} = {toml(value)}" for name, value in ranges.items()]
    before = before.replace("max_length = 64\n", "" if "max_length" in ranges else "max_length = 64\n")
    text = "\n".join([before, fixed, "[space]", *lines, "[pruner]", after])
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_parameter_has_a_range_here() -> None:
    assert set(RANGES) == set(SEARCHABLE)


def test_everything_at_once_makes_recipes_that_hold_what_was_suggested(tmp_path: Path) -> None:
    read = config.load(study(tmp_path, RANGES))
    assert isinstance(read.space["rank"], IntRange)
    assert read.space["neftune_alpha"] == Choice(choices=(0.0, 5.0, 10.0, 15.0))
    assert isinstance(read.space["loraplus_ratio"], FloatRange)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, set[Any]] = {name: set() for name in RANGES}
    for _ in range(60):
        params = space.suggest(searched.ask(), read)
        recipe = space.recipe(read, params)
        for name, value in params.items():
            assert getattr(recipe, name) == value
            seen[name].add(value)
        assert ("decay" in params) == (params["schedule"] == "wsd")
        assert {"dpo_loss", "dpo_beta", "dpo_learning_rate"} & set(params) == (
            {"dpo_loss", "dpo_beta", "dpo_learning_rate"} if params["dpo_share"] else set()
        )
    assert all(len(values) > 1 for values in seen.values()), seen


@pytest.mark.parametrize(
    ("found", "value", "holds"),
    [
        (Condition("dpo_share"), 0.2, True),
        (Condition("dpo_share"), 0.0, False),
        (Condition("dpo_share"), None, False),
        (Condition("schedule", "wsd"), "wsd", True),
        (Condition("schedule", "wsd"), "cosine", False),
        (Condition("schedule", "wsd"), None, False),
    ],
)
def test_a_condition_holds_or_not(found: Condition, value: Any, holds: bool) -> None:
    assert found.holds(value) == holds


def test_conditions_are_told_as_a_study_compares_them(tmp_path: Path) -> None:
    told = space.distributions(config.load(study(tmp_path, RANGES)))
    assert told["decay"]["when"] == 'schedule = "wsd"'
    assert told["dpo_loss"]["when"] == "dpo_share > 0"
    assert "when" not in told["use_dora"]
    assert condition("weight.noisy") is None


def test_decay_needs_its_schedule(tmp_path: Path) -> None:
    assert 'decay: it changes nothing, since schedule is "cosine"; search that too' in refused(
        study(tmp_path, {"decay": RANGES["decay"]})
    )
    searched = {"decay": RANGES["decay"], "schedule": {"choices": ["linear", "cosine"]}}
    assert 'decay: it changes nothing, since schedule is "linear"; search that' in refused(study(tmp_path, searched))
    config.load(study(tmp_path, {"decay": RANGES["decay"]}, 'schedule = "wsd"'))


def test_a_prior_with_a_decay_needs_the_schedule_too(tmp_path: Path) -> None:
    path = study(tmp_path, {name: RANGES[name] for name in ("decay", "schedule")})
    prior = '[[prior]]\nname = "one"\nschedule = "linear"\ndecay = 0.2\n'
    path.write_text(path.read_text().replace("[pruner]", f"{prior}\n[pruner]"))
    assert '[[prior]] one decay: it changes nothing, since schedule is "linear" here; leave it out' in refused(path)


@pytest.mark.parametrize("name", ["packing", "gradient_checkpointing", "uncheckpointed_layers"])
def test_what_changes_speed_alone_is_not_searched(tmp_path: Path, name: str) -> None:
    said = refused(study(tmp_path, {"rank": RANGES["rank"], name: {"choices": [True]}}))
    assert f"{name}: it cannot be searched: {UNSEARCHABLE[name]}" in said


def test_uncheckpointed_layers_need_checkpointing(tmp_path: Path) -> None:
    said = refused(study(tmp_path, {"rank": RANGES["rank"]}, "uncheckpointed_layers = 2"))
    assert "[recipe] uncheckpointed_layers: it changes nothing: no layer is checkpointed; set gradient_checkpoi" in said
    read = config.load(
        study(tmp_path, {"rank": RANGES["rank"]}, "gradient_checkpointing = true\nuncheckpointed_layers = 2")
    )
    assert space.recipe(read, {}).uncheckpointed_layers == 2


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("rank", {"choices": [0, 8]}, "it is 0; it must be at least 1"),
        ("use_dora", {"low": 0, "high": 1}, r"it is no number; write \{ choices = \[...\] \} with some of true, false"),
        ("use_dora", {"choices": [1]}, "it is 1; it must be true or false"),
        ("dpo_loss", {"low": 0, "high": 1}, "with some of sigmoid, sigmoid_norm, hinge, ipo"),
        ("dpo_loss", {"choices": ["kto"]}, "it is \"kto\"; it must be 'sigmoid', "),
        ("targets", {"choices": ["q_proj"]}, r"it is \"q_proj\"; it must be 'all-linear', .* like '\.\*"),
        ("targets", {"choices": [["q_proj"]]}, "choices: a list is no number, text or truth value"),
        ("targets", {"choices": [".*(q"]}, "no regular expression"),
        ("loraplus_ratio", {"low": 0.5, "high": 2.0}, "it is 0.5; it must be at least 1 and at most 64"),
        ("decay", {"low": 0.0, "high": 0.5}, "it is 0.0; it must be above 0 and at most 1"),
    ],
)
def test_a_range_that_a_recipe_would_refuse_is_refused(name: str, raw: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(name, raw)


def test_a_fixed_list_of_targets_is_taken(tmp_path: Path) -> None:
    read = config.load(study(tmp_path, {"rank": RANGES["rank"]}, "targets = ['v_proj', 'q_proj']"))
    assert space.recipe(read, {}).targets == ("q_proj", "v_proj")
    assert 'targets: it is "q_proj"; it must be' in refused(
        study(tmp_path, {"rank": RANGES["rank"]}, 'targets = "q_proj"')
    )
