"""What scoring costs: the closed form against recorded simulations and a real cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_train import LLAMA

from train.base import BaseFacts, facts_of_config
from train.planning.flops import SPEEDS
from train.planning.plan import Answers, generation_bytes, scoring_seconds, shape_of
from train.planning.scoring import Adapters, generating
from train.planning.simulated import Shape
from train.recipe import Base, Recipe, Source

RECORDED = Path(__file__).parent.parent / "data" / "answering.json"


def closed_form(facts: BaseFacts, shape: Shape) -> float:
    linears = [linear for linear in facts.linears if linear.name in shape.targets]
    parameters = sum(shape.rank * (linear.inputs + linear.outputs) * linear.count for linear in linears)
    adapters = Adapters({linear.name: linear.outputs for linear in linears}, shape.rank, parameters)
    asked = Answers(64, shape.micro_batch_size, shape.length, shape.new_tokens)
    return sum(generating(facts, adapters, asked, shape.device).values())


def test_the_closed_form_is_within_half_a_percent_of_recorded_simulations() -> None:
    rows = json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    assert len(rows) >= 50
    for row in rows:
        shape = Shape.model_validate_json(json.dumps({"config": {}, "stage": "answer", **row["shape"]}))
        assert closed_form(shape_of(row["base"]), shape) == pytest.approx(row["peak_bytes"], rel=0.005)


def test_a_real_cache_takes_what_the_plan_says() -> None:
    """On the CPU, in float32: a key and a value a token and layer."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.ones(3, 40, dtype=torch.long), past_key_values=cache, use_cache=True)
        model(torch.ones(3, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    facts = facts_of_config({**LLAMA, "model_type": "llama"})
    planned = generating(facts, Adapters({}, 4, 0), Answers(3, 3, 1, 40), "cpu")
    assert planned["activations"] == held


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"base": Base(model="base"), "sources": (Source(name="a", path="a"),), "examples": 16, **changes})


def test_generating_takes_a_key_and_a_value_a_token_and_layer() -> None:
    facts = shape_of("meta-llama/Llama-3.1-8B")
    asked = [Answers(64, 32, 8, new) for new in (4096, 8192)]
    one, two = (generation_bytes(recipe(), facts, "cuda", each) for each in asked)
    cache = 2 * 2 * 1024 * 4096 * 32 * 32  # key and value, bytes, kv size, tokens, layers, sequences
    assert cache < two - one < 1.02 * cache


def test_scoring_seconds_follow_what_is_asked() -> None:
    facts, speed = shape_of("Qwen/Qwen2.5-7B"), SPEEDS[0]
    one = scoring_seconds(recipe(), facts, Answers(64, 16, 512, 512), speed)
    assert one.total == pytest.approx(one.reading + one.writing)
    assert one.writing == pytest.approx(4 * 512 * one.a_token)
    twice = scoring_seconds(recipe(), facts, Answers(128, 16, 512, 512), speed)
    assert twice.total == pytest.approx(2 * one.total)
    fewer = scoring_seconds(recipe(targets="attention-qv"), facts, Answers(64, 16, 512, 512), speed)
    assert fewer.a_token < one.a_token  # every adapted module is more kernels to dispatch
    crowd = scoring_seconds(recipe(), facts, Answers(4096, 4096, 512, 512), speed)
    assert crowd.a_token > one.a_token  # the cache of so many is what takes the time
