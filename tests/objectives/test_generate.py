"""Greedy generation: equal to transformers' own token for token, rows that leave, ends as the template teaches them."""

from __future__ import annotations

import copy
import random
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from objectives.generate import Decoding, Generator, decode, end_tokens, evaluating
from objectives.score import ObjectiveError

PROMPTS = [
    "write a note",
    "name three birds",
    "the river and the old bridge, then three birds",
    "x",
    "write",
    "a b c d e",
]
NEW = 24
MANY_ENDS = frozenset(range(0, 320, 9))  # so that rows of a random model end here and there


def rows_of(generator: Generator) -> list[list[int]]:
    return generator.encode(PROMPTS)


def by_transformers(model: Any, rows: list[list[int]], ends: frozenset[int], new: int) -> list[list[int]]:
    """What model.generate gives, each row cut behind its end token."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=sorted(ends), use_cache=True
    )
    with evaluating(model):
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    return [cut(row, ends) for row in out]


def cut(row: list[int], ends: frozenset[int]) -> list[int]:
    return next((row[: i + 1] for i, token in enumerate(row) if token in ends), row)


def tiny(architecture: str) -> Any:
    """A random model of another architecture: biases, sliding windows, learned positions."""
    shape = {"vocab_size": 320, "max_position_embeddings": 256, "initializer_range": 0.4}
    llama_like = {
        **shape,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    configs = {
        "qwen2": lambda: Qwen2Config(**llama_like),
        "mistral-window-8": lambda: MistralConfig(**llama_like, sliding_window=8),
        "gpt2": lambda: GPT2Config(
            vocab_size=320, n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4, eos_token_id=1
        ),
    }
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(configs[architecture]())


def quantized(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with its decoder's linear layers in NF4, double quantization."""
    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            packed = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
            )
            packed.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            packed.to("cpu")  # quantizes
            packed.support_avx512bf16_for_cpu = False  # else the first evaluation repacks the weights for good
            model.model.set_submodule(name, packed)
    return model


def with_adapter(model: Any) -> Any:
    torch.manual_seed(2)
    return get_peft_model(
        model, LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )


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


def test_decoding_goes_on_with_the_rows_that_are_kept(llama: LlamaForCausalLM, generator: Generator) -> None:
    with evaluating(llama):
        batch = Decoding(llama, rows_of(generator))
        assert batch.step().shape == (6,)
        batch.keep([1, 4])
        assert batch.step().shape == (2,)
        assert {layer.keys.shape[0] for layer in batch._cache.layers} == {2}


# ---- answers


def test_answers_come_in_the_order_of_the_prompts(generator: Generator) -> None:
    forwards, backwards = generator(PROMPTS), generator(PROMPTS[::-1])
    assert forwards == backwards[::-1]
    assert generator([]) == []


def test_an_answer_is_the_new_text_without_the_prompt(generator: Generator, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(generator)
    with evaluating(generator._model):
        new = decode(generator._model, rows, generator.end_tokens, NEW)
    for made, tokens in zip(generator(PROMPTS), new, strict=True):
        ended = tokens[-1] in generator.end_tokens
        assert made.text == tokenizer.decode(tokens, skip_special_tokens=True)
        assert made.tokens == len(tokens)
        assert made.capped == (not ended)


@pytest.mark.parametrize(("tail", "text", "capped"), [([4], "A", False), ([60], None, True)])
def test_an_answer_that_ends_by_itself_is_not_capped(
    generator: Generator, tail: list[int], text: str, capped: bool
) -> None:
    generator.end_tokens = frozenset({4})
    letter = generator._tokenizer.convert_tokens_to_ids("A")
    made = generator._answer([letter, *tail])
    assert (made.capped, made.tokens) == (capped, 2)
    if text:
        assert made.text == text


def test_white_space_and_punctuation_stay_as_generated(
    generator: Generator, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "  a , b . \n do n't"
    assert generator._answer(tokenizer(text)["input_ids"]).text == text


# ---- template and ends


def test_the_prompt_is_templated_once_without_a_second_bos(
    generator: Generator, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert tokenizer.decode(generator.encode(["a river"])[0]) == "<|user|>a river<|assistant|>"


def test_a_given_template_goes_before_that_of_the_tokenizer(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    generator = Generator(llama, tokenizer, "{{ messages[0]['content'] }}:", NEW, 2)
    assert tokenizer.decode(generator.encode(["a river"])[0]) == "a river:"


def test_ends_are_those_of_template_tokenizer_and_generation_config(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    eos, end, user = tokenizer.convert_tokens_to_ids(["<eos>", "<|end|>", "<|user|>"])
    template = tokenizer.chat_template
    assert end_tokens(llama, tokenizer, template) == {eos, end}
    llama.generation_config.eos_token_id = [user, eos]
    assert end_tokens(llama, tokenizer, template) == {eos, end, user}
    llama.generation_config.eos_token_id = user
    assert end_tokens(llama, tokenizer, template.replace("<|end|>", "!")) == {eos, user}


def test_special_tokens_elsewhere_in_a_template_end_nothing(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    eos, end = tokenizer.convert_tokens_to_ids(["<eos>", "<|end|>"])
    question_alone = "<|user|>{{ messages[0]['content'] }}<|assistant|>"
    assert end_tokens(llama, tokenizer, question_alone) == {eos}
    plain_text_first = tokenizer.chat_template.replace("<|end|>", " (end of answer)<|end|><|user|>")
    assert end_tokens(llama, tokenizer, plain_text_first) == {eos, end}


def test_a_tokenizer_without_a_template_is_refused(llama: LlamaForCausalLM, make_tokenizer: Any) -> None:
    with pytest.raises(ObjectiveError, match="no chat template, and none was given; give one"):
        Generator(llama, make_tokenizer(eos_token="<eos>"), None, NEW, 2)


def test_a_model_that_can_never_end_is_refused(llama: LlamaForCausalLM, make_tokenizer: Any) -> None:
    with pytest.raises(ObjectiveError, match=r"no token ends an answer.*set eos_token"):
        Generator(llama, make_tokenizer(), "{{ messages[0]['content'] }}:", NEW, 2)


def test_a_template_that_fails_is_refused(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    for template in ("{{ raise_exception('no users here') }}", "{% for %}"):
        with pytest.raises(ObjectiveError, match="chat template fails on a"):
            Generator(llama, tokenizer, template, NEW, 2)


def test_prompts_beyond_the_models_positions_are_refused(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    generator = Generator(llama, tokenizer, None, 250, 2)
    with pytest.raises(ObjectiveError, match=r"exceeds the model's 256 positions; lower max_new_tokens to \d+"):
        generator(["write a note about the river and the old bridge"])


# ---- leaves no trace


def test_modes_random_numbers_and_gradients_are_left_as_they_were(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = with_adapter(quantized(llama))
    model.get_base_model().activation_checkpointing_enable()
    model.enable_input_require_grads()
    model.config.use_cache = False
    model.train()
    model.base_model.model.model.layers[0].eval()  # a mixture of modes
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    generator = Generator(model, tokenizer, None, NEW, 2)
    first = generator(PROMPTS)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert generator(PROMPTS) == first  # no dropout
    assert torch.is_grad_enabled()


def test_modes_are_restored_when_generation_fails(llama: LlamaForCausalLM) -> None:
    llama.train()
    with pytest.raises(IndexError), evaluating(llama):  # an id beyond the vocabulary
        decode(llama, [[999]], frozenset(), NEW)
    assert llama.training
    assert llama.model.layers[0].training


def test_training_goes_on_after_generation(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model = with_adapter(quantized(llama))
    ids = torch.tensor([[5, 6, 7, 8]])

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)
        model.train()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    before = gradients()
    Generator(model, tokenizer, None, NEW, 2)(PROMPTS)
    assert all(map(torch.equal, before, gradients()))
