"""The simulation, run with the installed libraries. Where it moves, an upgrade moved what training takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_plan_scoring import closed_form

from train.base import facts_of_config
from train.planning import simulated as simulated_module
from train.planning.shapes import SHAPES
from train.planning.simulated import Shape, config_of, simulated
from train.recipe import RecipeError

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASES = ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-7B")

# Peak bytes of three layers, at torch 2.13, transformers 5.23, peft 0.21.2, bitsandbytes 0.50.2, trl 1.16. After an
# upgrade that moves one by more than half a percent: find out what changed, mend train/planning/memory.py, then record
# anew.
RECORDED = (3143228416, 1304257536, 3246638080)


def shapes() -> list[Shape]:
    """One a base model: packed and checkpointed; padded, with dropout; DPO, partly checkpointed."""
    llama, mistral, qwen = (config_of(facts_of_config(SHAPES[base])) for base in BASES)
    return [
        Shape(config=llama, layers=3, targets=ALL, length=2048),
        Shape(config=mistral, layers=3, targets=ALL[:4], length=512, micro_batch_size=2, packing=False, dropout=True),
        Shape(config=qwen, layers=3, targets=ALL, length=512, stage="dpo", uncheckpointed_layers=1, rank=32),
    ]


def answering() -> list[Shape]:
    """Of each base model, prompts that are read and answered: reading is widest, writing is, and fewer targets."""
    llama, mistral, qwen = (config_of(facts_of_config(SHAPES[base])) for base in BASES)
    usual: dict[str, Any] = {"layers": 3, "stage": "answer", "micro_batch_size": 16}
    return [
        Shape(config=llama, length=512, new_tokens=64, targets=ALL, **usual),
        Shape(config=mistral, length=32, new_tokens=8192, targets=ALL, **usual),
        Shape(config=qwen, length=512, new_tokens=512, targets=ALL[:4], rank=64, **usual),
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nightshift" / "simulations"


def test_peaks_of_three_architectures_have_not_moved_and_are_cached(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = simulated([*shapes(), *answering()])  # of one process: its imports take the longest
    for now, before in zip(found, RECORDED, strict=False):
        assert now.peak_bytes == pytest.approx(before, rel=0.005)
        assert now.peak_bytes == sum(now.memory.values()) == max(now.phases.values())
    for base, shape, now in zip(BASES, answering(), found[3:], strict=True):
        facts = facts_of_config({**SHAPES[base], "num_hidden_layers": 3})
        assert closed_form(facts, shape) == pytest.approx(now.peak_bytes, rel=0.005)
    assert [now.phase for now in found[3:5]] == ["reading", "writing"]
    assert len(list(cache.iterdir())) == 6
    monkeypatch.setattr(simulated_module.sys, "executable", "nothing-runs-again")
    assert simulated([*shapes(), *answering()]) == found


def test_a_simulation_that_fails_says_so_and_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_module.sys, "executable", "false")
    with pytest.raises(RecipeError, match="step of this llama model cannot be simulated: exit code 1; plan without"):
        simulated(shapes()[:1])
    assert not cache.exists()


def test_a_shape_goes_through_json_unchanged() -> None:
    for shape in shapes():
        assert Shape.model_validate_json(json.dumps(shape.model_dump(mode="json"))) == shape
