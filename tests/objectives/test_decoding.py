"""Decoding: equal to transformers' own token for token, whoever joins or leaves the batch, also on unpacked weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_generation import MANY_ENDS, NEW, PROMPTS, by_transformers, quantized, rows_of, tiny, with_adapter
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from objectives import decoding
from objectives.cache import BLOCK
from objectives.decoding import Decoding, decode, greedy
from objectives.generate import Generator
from objectives.inference import evaluating, newest_only, unpacked


@pytest.fixture
def generator(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Generator:
    return Generator(llama, tokenizer, None, NEW, 3)


# ---- equal to transformers


@pytest.mark.parametrize("ends", [frozenset(), MANY_ENDS], ids=["no row ends", "rows end"])
def test_a_batch_equals_transformers_generate(
    llama: LlamaForCausalLM, generator: Generator, ends: frozenset[int]
) -> None:
    rows = rows_of(generator)
    with evaluating(llama):
        ours = decode(llama, rows, ends, NEW)
    assert ours == by_transformers(llama, rows, ends, NEW)
    assert len({tuple(row) for row in ours}) == len(rows)
    if ends:
        assert len({len(row) for row in ours}) > 2  # rows did leave at different times


@pytest.mark.parametrize("architecture", ["qwen2", "mistral-window-8", "gpt2"])
def test_other_architectures_equal_transformers_generate(
    architecture: str, generator: Generator, one_thread: None
) -> None:
    model = tiny(architecture)
    rows = rows_of(generator)
    with evaluating(model):
        ours = decode(model, rows, MANY_ENDS, NEW)
    assert ours == by_transformers(model, rows, MANY_ENDS, NEW)


def test_four_bit_weights_under_an_adapter_equal_transformers_generate(
    llama: LlamaForCausalLM, generator: Generator
) -> None:
    model = with_adapter(quantized(llama))
    rows = rows_of(generator)
    with evaluating(model):
        ours = decode(model, rows, MANY_ENDS, NEW)
    assert ours == by_transformers(model, rows, MANY_ENDS, NEW)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 100])
def test_answers_do_not_depend_on_the_batch_in_float32(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, generator: Generator, batch_size: int
) -> None:
    assert Generator(llama, tokenizer, None, NEW, batch_size)(PROMPTS) == generator(PROMPTS)


def test_rows_that_leave_do_not_disturb_the_others(llama: LlamaForCausalLM, generator: Generator) -> None:
    rows = rows_of(generator)
    with evaluating(llama):
        alone = [decode(llama, [row], MANY_ENDS, NEW)[0] for row in rows]
        assert decode(llama, rows, MANY_ENDS, NEW) == alone


@pytest.mark.parametrize("architecture", ["qwen2", "mistral-window-8", "gpt2"])
def test_rows_that_join_a_batch_are_continued_as_if_alone(
    architecture: str, generator: Generator, one_thread: None
) -> None:
    model = tiny(architecture)
    rows = rows_of(generator) * 2
    with evaluating(model):
        alone = [decode(model, [row], MANY_ENDS, NEW)[0] for row in rows]
        for size in (1, 2, 5):
            assert decode(model, rows, MANY_ENDS, NEW, size) == alone
    assert len({len(row) for row in alone}) > 2


@pytest.mark.parametrize(("architecture", "axes"), [("qwen2", 4), ("mistral-window-8", 2)])
def test_a_mask_is_made_for_attention_only_where_a_new_token_sees_its_whole_row(architecture: str, axes: int) -> None:
    model, given = tiny(architecture), []
    model.register_forward_pre_hook(lambda _, __, kw: given.append(kw["attention_mask"].dim()), with_kwargs=True)
    with evaluating(model):
        for rows in ([[5, 6, 7], [8]], [[5, 6], [7, 8]]):  # the second ones have no gap
            batch = Decoding(model, rows)
            batch.step()
            batch.step()
    assert given == [2, axes, 2, 2]


def test_prompts_that_are_read_in_groups_are_continued_as_if_alone(
    llama: LlamaForCausalLM, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sorted(rows_of(generator) * 2, key=len, reverse=True)
    with evaluating(llama):
        alone = [decode(llama, [row], MANY_ENDS, NEW)[0] for row in rows]
        for at_once in (1, len(rows[0]), 3 * len(rows[0])):
            monkeypatch.setattr(decoding, "READ_TOKENS", at_once)
            monkeypatch.setattr(decoding, "READ_ENOUGH", at_once // 2)
            assert decode(llama, rows, MANY_ENDS, NEW) == alone


def test_a_cache_that_has_grown_many_times_equals_transformers_generate(
    llama: LlamaForCausalLM, generator: Generator
) -> None:
    rows, new = rows_of(generator)[:3], 2 * BLOCK + 9
    with evaluating(llama):
        assert decode(llama, rows, [0], new) == by_transformers(llama, rows, frozenset([0]), new)


def test_a_memory_that_rows_cannot_join_is_used_batch_by_batch(generator: Generator, one_thread: None) -> None:
    torch.manual_seed(1)
    config = Lfm2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model, rows = AutoModelForCausalLM.from_config(config), rows_of(generator)
    with evaluating(model):
        together = decode(model, rows, MANY_ENDS, NEW, 2)
        assert together == [row for i in (0, 2, 4) for row in decode(model, rows[i : i + 2], MANY_ENDS, NEW)]
    assert together[:2] == by_transformers(model, rows[:2], MANY_ENDS, NEW)


def test_decoding_goes_on_with_the_rows_that_are_kept(llama: LlamaForCausalLM, generator: Generator) -> None:
    rows = rows_of(generator)
    with evaluating(llama):
        alone = decode(llama, rows, frozenset(), 3)
        batch = Decoding(llama, rows)
        assert batch.step().tolist() == [row[0] for row in alone]
        assert batch.keep([1, 2, 4]) == [4, 1, 2]  # the last one takes the first one's place
        assert batch.step().tolist() == [alone[row][1] for row in (4, 1, 2)]
        assert batch.keep([0, 2]) == [0, 2]
        fresh = Decoding(llama, rows[:1])
        assert fresh.step().tolist() == [alone[0][0]]
        batch.join([fresh])
        assert batch.step().tolist() == [alone[4][2], alone[2][2], alone[0][1]]


@given(seed=st.integers(0, 2**32), words=st.sampled_from([1, 100, 128, 512]))
def test_the_greedy_token_is_the_first_of_the_largest(seed: int, words: int) -> None:
    logits = torch.randint(-2, 3, (2, words), generator=torch.Generator().manual_seed(seed)).float()
    assert greedy(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]


# ---- unpacked weights


def test_unpacked_four_bit_weights_give_the_same_logits_bit_for_bit(llama: LlamaForCausalLM) -> None:
    model, ids = quantized(llama), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with evaluating(model):
        packed = model(input_ids=ids).logits
        with unpacked(model):
            assert torch.equal(model(input_ids=ids).logits, packed)
            assert "forward" in vars(model.model.layers[0].mlp.up_proj)
        assert "forward" not in vars(model.model.layers[0].mlp.up_proj)


def test_an_adapter_on_unpacked_weights_gives_the_same_logits_but_for_rounding(llama: LlamaForCausalLM) -> None:
    model, ids = with_adapter(quantized(llama)), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with evaluating(model):
        packed = model(input_ids=ids).logits
        with unpacked(model):
            torch.testing.assert_close(model(input_ids=ids).logits, packed)
        with model.disable_adapter(), unpacked(model):
            assert not torch.allclose(model(input_ids=ids).logits, packed)
        assert torch.equal(model(input_ids=ids).logits, packed)


def test_large_matrices_in_blocks_give_the_same_but_for_rounding(one_thread: None) -> None:
    torch.manual_seed(3)
    layer, x = torch.nn.Linear(512, 1024), torch.randn(3, 5, 512)
    with evaluating(layer):
        plain = layer(x)
        with unpacked(layer):
            assert "forward" in vars(layer)
            torch.testing.assert_close(layer(x), plain)
            torch.testing.assert_close(layer(x[:, -1:]), plain[:, -1:])
        assert torch.equal(layer(x), plain)


# ---- the newest position of a prompt


@pytest.mark.parametrize(("architecture", "positions"), [("qwen2", 1), ("mistral-window-8", 1), ("gpt2", 4)])
def test_the_newest_position_goes_through_the_last_layer_alone(
    architecture: str, positions: int, one_thread: None
) -> None:
    model, ids, seen = tiny(architecture), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), []
    layers = model.transformer.h if architecture == "gpt2" else model.model.layers
    for layer in layers:
        layer.mlp.register_forward_hook(lambda _, __, made: seen.append(made.shape[1]))
    with evaluating(model):
        whole = model(input_ids=ids).logits
        with newest_only(model):
            torch.testing.assert_close(model(input_ids=ids).logits[:, -1], whole[:, -1])
        assert torch.equal(model(input_ids=ids).logits, whole)
    assert seen == [4, 4, 4, positions, 4, 4]


def test_a_model_under_an_adapter_is_bit_for_bit_what_it_was_after_its_answers(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model, ids = with_adapter(quantized(llama)), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with evaluating(model):
        logits = model(input_ids=ids).logits
    state = {name: value.clone() for name, value in model.state_dict().items()}
    Generator(model, tokenizer, None, NEW, 3)(["write a note", "x"])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with evaluating(model):
        assert torch.equal(model(input_ids=ids).logits, logits)
