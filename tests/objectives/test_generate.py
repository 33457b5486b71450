"""Answers: prompts templated once, ends as the template teaches them, decided answers, memory, no trace left."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_generation import NEW, PROMPTS, quantized, rows_of, with_adapter
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from objectives.answers import AnswerLog
from objectives.decoding import EVERY, decode
from objectives.generate import Generator, end_tokens
from objectives.inference import evaluating
from objectives.plain import plainly
from objectives.score import ObjectiveError


@pytest.fixture
def generator(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Generator:
    return Generator(llama, tokenizer, None, NEW, 3)


# ---- answers that are decided


def test_a_decided_answer_ends_at_once_and_the_others_go_on(generator: Generator) -> None:
    generator.max_new_tokens = 60
    whole = generator(PROMPTS)
    made = generator(PROMPTS, stop=[lambda text, i=i: i in (1, 4) and len(text) > 30 for i in range(len(PROMPTS))])
    assert [answer.decided for answer in made] == [False, True, False, False, True, False]
    for i, answer in enumerate(made):
        if not answer.decided:
            assert answer == whole[i]
        else:
            assert whole[i].text.startswith(answer.text)
            assert len(answer.text) > 30
            assert (answer.tokens % EVERY, answer.capped) == (0, False)


def test_stop_sees_beginnings_of_the_answer_without_half_a_character(generator: Generator) -> None:
    generator.max_new_tokens = 70
    seen: list[list[str]] = [[] for _ in PROMPTS]

    def looks(i: int) -> Callable[[str], bool]:
        return lambda text: bool(seen[i].append(text))

    made = generator(PROMPTS, stop=[looks(i) for i in range(len(PROMPTS))])
    assert [len(texts) for texts in seen] == [answer.tokens // EVERY for answer in made]
    assert all(answer.text.startswith(text) for answer, texts in zip(made, seen, strict=True) for text in texts)
    assert not any(text.endswith("\ufffd") for texts in seen for text in texts)


# ---- memory


def cramped(model: Any, rows: int, fail: Callable[[], object]) -> None:
    """Have `model` fail where more than `rows` of them are computed at once."""

    def check(_: Any, __: Any, given: dict[str, Any]) -> None:
        if len(given["input_ids"]) > rows:
            fail()

    model.register_forward_pre_hook(check, with_kwargs=True)


def too_large() -> None:
    torch.empty(2**50)


def out_on_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("fail", [too_large, out_on_cuda])
def test_out_of_memory_halves_the_batch_and_says_so(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, fail: Callable[[], None], tmp_path: Path
) -> None:
    expected = Generator(llama, tokenizer, None, NEW, 2)(PROMPTS)
    cramped(llama, 3, fail)  # the try on three prompts fits
    generator = Generator(llama, tokenizer, None, NEW, 4)
    assert not generator.halved
    assert generator(PROMPTS, log=AnswerLog(tmp_path / "log", {})) == expected
    assert generator.halved
    resumed = Generator(llama, tokenizer, None, NEW, 4)
    assert resumed(PROMPTS, log=AnswerLog(tmp_path / "log", {})) == expected
    assert resumed.halved


def test_out_of_memory_with_half_the_batch_is_refused(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    Generator(llama, tokenizer, None, NEW, 1)(PROMPTS)
    cramped(llama, 1, too_large)
    with pytest.raises(ObjectiveError, match=r"memory ran out while 2 prompts .* set batch_size to 1 or lower"):
        Generator(llama, tokenizer, None, NEW, 4)(PROMPTS)


def test_other_failures_are_what_they_were_and_leave_the_model_as_it_was(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    llama.train()
    cramped(llama, 0, lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Generator(llama, tokenizer, None, NEW, 1)(PROMPTS)
    assert llama.training


# ---- the try at the start


def test_where_ours_differs_from_transformers_generate_theirs_is_used(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    generator = Generator(llama, tokenizer, None, NEW, 2)
    rows = generator.encode(PROMPTS)
    with evaluating(llama):
        first = decode(llama, rows, generator.end_tokens, 1)
    llama.generation_config.suppress_tokens = sorted({token for row in first for token in row})
    with pytest.warns(UserWarning, match=r"made by model.generate, which is slower: token 1 after a prompt of"):
        made = generator(PROMPTS)
    with evaluating(llama):
        theirs = plainly(llama, rows, generator.end_tokens, NEW)[0]
    assert [answer.tokens for answer in made] == list(map(len, theirs))
    assert made[0].text == tokenizer.decode(theirs[0], skip_special_tokens=True)


# ---- answers


def test_answers_come_in_the_order_of_the_prompts(generator: Generator) -> None:
    forwards, backwards = generator(PROMPTS), generator(PROMPTS[::-1])
    assert forwards == backwards[::-1]
    assert generator([]) == []


def test_an_answer_is_the_new_text_without_the_prompt(generator: Generator, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(generator)
    with evaluating(generator.model):
        new = decode(generator.model, rows, generator.end_tokens, NEW)
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
        with pytest.raises(ObjectiveError, match="chat template fails at the assistant's message: "):
            Generator(llama, tokenizer, template, NEW, 2)


def test_prompts_beyond_the_models_positions_are_refused(
    llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    generator = Generator(llama, tokenizer, None, 250, 2)
    said = r"the prompt that begins 'write a note .*' has \d+ tokens .* 256 positions: lower .*max_new_tokens\) to \d+"
    for ask in (generator, generator.check):
        with pytest.raises(ObjectiveError, match=said):
            ask(["write", "write a note about the river and the old bridge"])
    with pytest.raises(ObjectiveError, match=r"cannot read the prompt that begins 'x x x.*leave such prompts out"):
        generator.check(["write", "x " * 300])


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
