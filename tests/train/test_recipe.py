"""The Recipe: what it takes, what it refuses, and that equal ones are the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from train.recipe import Base, Recipe, Source
from train.targets import TARGET_MODULES, picked

SFT, PAIRS = Source(name="made", path="made.jsonl"), Source(name="pairs", path="pairs.jsonl", use="preference")


def make(**fields: Any) -> Recipe:
    return Recipe(**{"base": Base(model="base"), "sources": (SFT, PAIRS), "examples": 64, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank": 0}, r"rank\n  Input should be greater than or equal to 1"),
        ({"rank": 8.0}, r"rank\n  Input should be a valid integer"),
        ({"alpha_ratio": 0.0}, r"alpha_ratio\n  Input should be greater than 0"),
        ({"learning_rate": float("nan")}, r"learning_rate\n  Input should be a finite number"),
        ({"loraplus_ratio": 0.5}, r"loraplus_ratio\n  Input should be greater than or equal to 1"),
        ({"neftune_alpha": -1.0}, r"neftune_alpha\n  Input should be greater than or equal to 0"),
        ({"schedule": "step"}, r"schedule\n  Input should be 'cosine', 'linear', 'constant' or 'wsd'"),
        ({"decay": 0.0}, r"decay\n  Input should be greater than 0"),
        ({"adam_beta2": 1.0}, r"adam_beta2\n  Input should be less than 1"),
        ({"dpo_loss": "sft"}, r"dpo_loss\n  Input should be 'sigmoid', 'sigmoid_norm', "),
        ({"sources": ()}, r"sources\n  Tuple should have at least 1 item"),
        ({"sources": (SFT, SFT)}, r"data sources share a name: \['made', 'made'\]"),
        ({"sources": (SFT.model_copy(update={"weight": 0.0}),)}, "no sft data source has a weight above 0"),
        ({"sources": (PAIRS,)}, "no sft data source has a weight above 0"),
        ({"sources": (SFT,), "dpo_share": 0.2}, "dpo_share is above 0, but no data source has use = 'preference'"),
        (
            {"sources": (SFT, PAIRS.model_copy(update={"weight": 0.0})), "dpo_share": 0.2},
            "dpo_share is above 0, but no preference data source has a weight above 0",
        ),
        ({"batch_size": 6, "micro_batch_size": 4}, "batch_size 6 is no multiple of micro_batch_size 4"),
        ({"examples": 8}, "examples 8 is less than one batch of 16"),
        ({"uncheckpointed_layers": 2}, "uncheckpointed_layers is 2, and gradient_checkpointing is off"),
        ({"lora_alpha": 32}, r"lora_alpha\n  Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make(**fields)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            "all",
            r"it is \"all\"; it must be 'all-linear', 'attention', 'attention-qv' or 'mlp', a list of module names",
        ),
        ("q_proj", r"it is \"q_proj\"; it must be .* a list of module names like \[\"q_proj\", \"v_proj\"\]"),
        ("", r"it is \"\"; it must be"),
        (".*(q", r"it is \"\.\*\(q\", no regular expression \(missing \)"),
        ([], r"it is \[\]; it must be"),
        (7, r"it is 7; it must be"),
        (["q_proj", "mlp"], "mlp in it is a set of modules; write it alone, not in a list"),
        (["q proj"], "'q proj' in it is no name of a module"),
        ([3], "3 in it is no name of a module"),
        ([r".*\.q_proj"], "in it is no name of a module"),
    ],
)
def test_targets_that_are_none_say_what_would_be(targets: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make(targets=targets)


def test_a_list_of_targets_means_the_same_in_any_order() -> None:
    one, other = make(targets=["v_proj", "q_proj"]), make(targets=("q_proj", "v_proj", "q_proj"))
    assert one == other
    assert one.digest == other.digest
    assert one.targets == ("q_proj", "v_proj")


MODULES = [
    f"model.layers.{n}.{room}" for n in range(3) for room in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", [m for m in MODULES if "attn" in m]),
        (("o_proj",), [m for m in MODULES if m.endswith("o_proj")]),
        (("self_attn.q_proj",), [m for m in MODULES if m.endswith("q_proj")]),
        (("proj",), []),  # names are whole between the dots
        (("layers.2.mlp.up_proj",), ["model.layers.2.mlp.up_proj"]),
        (r".*", MODULES),
        (r"q_proj.?", []),  # an expression is for the whole name
        (r".*\.[01]\..*q_proj", [MODULES[0], MODULES[3]]),
    ],
)
def test_targets_pick_modules_inside_the_layers(targets: Any, expected: list[str]) -> None:
    assert picked([*MODULES, "lm_head", "model.embed_tokens"], targets) == expected


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "targets": st.sampled_from([*TARGET_MODULES, ("q_proj", "k_proj"), r".*\.(up|down)_proj", r"é.*'\"\\"]),
    "schedule": st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    "decay": st.floats(0.01, 1.0),
    "warmup": st.floats(0.0, 1.0),
    "rank": st.integers(1, 256),
    "use_rslora": st.booleans(),
    "use_dora": st.booleans(),
    "loraplus_ratio": st.floats(1.0, 32.0),
    "neftune_alpha": st.floats(0.0, 15.0),
    "adam_beta2": st.floats(0.9, 0.9999),
    "dpo_share": st.floats(0.0, 0.9),
    "dpo_loss": st.sampled_from(["sigmoid", "ipo", "hinge"]),
}


@given(fields=st.fixed_dictionaries({}, optional=VALUES))
def test_a_recipe_comes_back_from_its_text(fields: dict[str, Any]) -> None:
    recipe = make(**fields)
    again = Recipe.model_validate_json(recipe.canonical_json())
    assert again == recipe
    assert again.digest == recipe.digest
    assert recipe.canonical_json().isascii()


def test_the_digest_covers_every_field() -> None:
    assert set(json.loads(make().canonical_json())) == set(Recipe.model_fields)
    assert make(neftune_alpha=5.0).digest != make().digest


def test_every_field_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    elsewhere = {"base", "sources", "probe", "seed", "threads"}  # a study sets them in other sections than [recipe]
    assert [name for name in Recipe.model_fields if name not in elsewhere and f"| `{name}` |" not in page] == []
    for name, info in Recipe.model_fields.items():
        default = json.dumps(info.default) if isinstance(info.default, (bool, int, float, str)) else None
        if name not in elsewhere and default:
            (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
            assert f"| {default.strip(chr(34))} |" in line, line


@given(
    examples=st.integers(16, 4000),
    share=st.floats(0.0, 0.99),
    batch=st.sampled_from([1, 2, 4, 8, 16]),
    fraction=st.floats(0.0, 1.0),
)
def test_stages_share_the_steps(examples: int, share: float, batch: int, fraction: float) -> None:
    recipe = make(examples=examples, dpo_share=share, batch_size=batch)
    assert recipe.sft_steps + recipe.dpo_steps == recipe.steps == examples // batch
    assert recipe.sft_steps >= 1
    assert (recipe.dpo_steps > 0) == (share > 0 and recipe.steps > 1)
    assert 1 <= recipe.step_at(fraction) <= recipe.steps


def test_recipes_are_read_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, train.planning.plan, train.recipe, train.catalog; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
