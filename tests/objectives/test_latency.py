"""Latency by a clock that the test holds, and sizes that do not believe packed weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from objectives.latency import Arm, Spread, interleaved, longest_prompt, measure_latency, size
from objectives.score import ObjectiveError


def test_times_are_those_of_the_clock(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    readings = itertools.chain.from_iterable((100.0 * run, 100.0 * run + 2, 100.0 * run + 11) for run in range(5))
    latency = measure_latency(llama, tokenizer, 7, 4, runs=3, warmups=2, clock=lambda: next(readings))
    assert latency.first_token_s == Spread(p50=2.0, p95=2.0)
    assert latency.per_token_s == Spread(p50=3.0, p95=3.0)
    assert latency.tokens_per_s == Spread(p50=4 / 11, p95=4 / 11)
    assert (latency.prompt_tokens, latency.new_tokens, latency.runs) == (7, 4, 3)
    assert latency.device.startswith("cpu")
    assert next(readings, None) is None  # warm-ups were run, and not counted


def test_the_model_reads_and_writes_as_many_tokens_as_asked(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[int, ...]] = []
    llama.register_forward_pre_hook(lambda _, __, given: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    llama.train()
    latency = measure_latency(llama, tokenizer, prompt_tokens=100, new_tokens=5, runs=2, warmups=1)
    assert seen == [(1, 100), (1, 1), (1, 1), (1, 1), (1, 1)] * 3
    assert llama.training
    assert 0 < latency.per_token_s.p50 <= latency.per_token_s.p95
    assert latency.peak_memory_bytes > 1_000_000
    assert type(latency).model_validate_json(latency.model_dump_json()) == latency


def test_more_tokens_than_positions_are_refused(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ObjectiveError, match="a prompt of 250 tokens and 16 new ones exceed the model's 256 positions"):
        measure_latency(llama, tokenizer, prompt_tokens=250, new_tokens=16, runs=1, warmups=0)


def test_several_are_measured_by_turns_and_the_base_without_its_adapter(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    tuned = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj"]))
    seen: list[bool] = []
    layer = tuned.get_base_model().model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda *_: seen.append(layer.disable_adapters))
    readings = itertools.chain.from_iterable((10.0 * run, 10.0 * run + 1 + run % 2, 10.0 * run + 3) for run in range(8))
    base, adapted = interleaved(
        [Arm(tuned, tokenizer, tuned.disable_adapter), Arm(tuned, tokenizer)],
        5,
        2,
        runs=3,
        warmups=1,
        clock=lambda: next(readings),
    )
    assert seen == [True, True, False, False] * 4
    assert base.first_token_s == Spread(p50=1.0, p95=1.0)
    assert adapted.first_token_s == Spread(p50=2.0, p95=2.0)
    assert base.runs == adapted.runs == 3


def test_the_95th_percentile_is_that_of_the_slow_runs(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    readings = itertools.chain.from_iterable((100.0 * run, 100.0 * run + 1, 100.0 * run + 2 + run) for run in range(3))
    latency = measure_latency(llama, tokenizer, 7, 4, runs=3, warmups=0, clock=lambda: next(readings))
    assert latency.tokens_per_s.p50 == 4 / 3
    assert latency.tokens_per_s.p95 == pytest.approx(1 + 0.1 * (4 / 3 - 1))
    assert latency.per_token_s.p95 == pytest.approx(1 - 0.1 / 3)
    assert Spread.of_rates([2.0, 1.0, 3.0]).p95 == pytest.approx(1.1)


def test_the_longest_prompt_leaves_room_for_the_answer(llama: LlamaForCausalLM) -> None:
    assert longest_prompt(llama, 100) == 156


def test_spread_interpolates_between_runs() -> None:
    assert Spread.of([3.0]) == Spread(p50=3.0, p95=3.0)
    assert Spread.of([4.0, 1.0, 3.0, 2.0]).p50 == 2.5
    assert Spread.of([float(n) for n in range(101)]) == Spread(p50=50.0, p95=95.0)


# ---- size


def packed(layer: torch.nn.Linear) -> bnb.nn.Linear4bit:
    """The layer in NF4 with double quantization."""
    made = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
    made.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
    return made.to("cpu")


def test_packed_weights_count_in_full_and_weigh_a_little_over_half_a_byte(llama: LlamaForCausalLM) -> None:
    whole = size(llama)
    assert whole.total_parameters == sum(p.numel() for p in llama.parameters())
    assert whole.loaded_bytes == 4 * whole.total_parameters + sum(b.nbytes for b in llama.buffers())

    layer = llama.model.layers[0].mlp.up_proj  # 64 x 32
    llama.model.layers[0].mlp.up_proj = packed(layer)
    small = size(llama)
    assert small.total_parameters == whole.total_parameters
    saved = whole.loaded_bytes - small.loaded_bytes
    constants = 32 * 1 + 16 * 4 + 256 * 4 + 4 + 4  # 8-bit absmax, NF4 table, 8-bit table, nested absmax and offset
    assert saved == 2048 * 4 - 2048 // 2 - constants


def test_tied_weights_count_once(llama: LlamaForCausalLM) -> None:
    before = size(llama)
    llama.lm_head.weight = llama.model.embed_tokens.weight
    after = size(llama)
    assert before.total_parameters - after.total_parameters == 320 * 32
    assert before.loaded_bytes - after.loaded_bytes == 320 * 32 * 4


def test_an_adapter_counts_frozen_or_not_and_its_folder_is_weighed(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    base = size(llama).total_parameters
    model = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    adapter = 2 * (4 * 32 + 32 * 4)  # two layers
    tuned = size(model, tmp_path / "adapter")
    assert (tuned.total_parameters, tuned.trainable_parameters) == (base + adapter, adapter)
    assert tuned.adapter_bytes == sum(f.stat().st_size for f in (tmp_path / "adapter").iterdir())

    frozen = PeftModel.from_pretrained(model.unload(), tmp_path / "adapter", is_trainable=False)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert size(frozen, tmp_path / "adapter") == tuned


def test_an_adapter_that_is_not_there_is_refused(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="is no folder; give that of a saved adapter"):
        size(llama, tmp_path / "absent")
