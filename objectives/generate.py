"""Prompts in, greedy answers out: left-padded batches, a key-value cache, and rows that leave as soon as they end.

Any causal language model of transformers, also under PEFT and on 4-bit weights. The loop gives what
`model.generate(do_sample=False)` gives, token for token; it is ours because rows that have ended leave the batch, and
because latency can be measured around each of its steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
import torch
from transformers import DynamicCache

from objectives.score import Answer, ObjectiveError

Tokens = list[int]


class Generator:
    """Answers prompts one batch at a time (see objectives.score.Generate).

    Every prompt is put into the chat template (None: the tokenizer's) as a user's single message. An answer ends with
    any of `end_tokens`, or at `max_new_tokens` and is then `capped`. Logits depend on `batch_size` in their last bits:
    keep it fixed within a study. The model is in evaluation mode during a call and in its earlier modes after it; no
    random number is drawn.

    Raises ObjectiveError without a chat template or an end token, and where a prompt and its answer exceed the model's
    positions.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        chat_template: str | None,
        max_new_tokens: int,
        batch_size: int,
        before_batch: Callable[[], None] = lambda: None,
    ) -> None:
        assert max_new_tokens >= 1, max_new_tokens
        assert batch_size >= 1, batch_size
        self.chat_template = _chat_template(tokenizer, chat_template)
        self.end_tokens = end_tokens(model, tokenizer, self.chat_template)
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.before_batch = before_batch
        self._model = model
        self._tokenizer = tokenizer

    def __call__(self, prompts: list[str]) -> list[Answer]:
        """One answer for each prompt, in the same order."""
        rows = self.encode(prompts)
        check_positions(self._model, max(map(len, rows), default=0), self.max_new_tokens)
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # what exhausts memory comes first
        answers: dict[int, Answer] = {}
        with evaluating(self._model):
            for start in range(0, len(rows), self.batch_size):
                self.before_batch()
                batch = longest_first[start : start + self.batch_size]
                new = decode(self._model, [rows[i] for i in batch], self.end_tokens, self.max_new_tokens)
                answers |= {i: self._answer(tokens) for i, tokens in zip(batch, new, strict=True)}
        return [answers[i] for i in range(len(rows))]

    def encode(self, prompts: Sequence[str]) -> list[Tokens]:
        """Each prompt as the model sees it: templated, with the generation prompt, without a second BOS token."""
        texts = [render(self._tokenizer, self.chat_template, [("user", prompt)]) for prompt in prompts]
        return [encode_text(self._tokenizer, text) for text in texts]

    def _answer(self, tokens: Tokens) -> Answer:
        ended = tokens[-1] in self.end_tokens
        text = self._tokenizer.decode(
            tokens[:-1] if ended else tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Answer(text=text, tokens=len(tokens), capped=not ended)


def _chat_template(tokenizer: Any, given: str | None) -> str:
    template = given if given is not None else tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ObjectiveError(
            "the tokenizer has no chat template, and none was given; give one (chat_template, Jinja), the same one for "
            "training and scoring"
        )
    assert isinstance(template, str)
    return template


def render(tokenizer: Any, template: str, messages: Sequence[tuple[str, str]], *, answer: bool = True) -> str:
    """The text of `messages` (role, content), with the opening of an answer at its end where `answer` is true."""
    chat = [{"role": role, "content": content} for role, content in messages]
    try:
        text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=answer)
    except jinja2.TemplateError as error:
        raise ObjectiveError(f"the chat template fails on a {messages[-1][0]} message: {error}; repair it") from error
    assert isinstance(text, str)
    return text


def encode_text(tokenizer: Any, text: str) -> Tokens:
    """Token ids of text that already has the special tokens it needs."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def end_tokens(model: Any, tokenizer: Any, template: str) -> frozenset[int]:
    """Every token that ends an answer: the special one that the template puts behind an answer, the tokenizer's EOS,
    and those of the model's generation config. Raises ObjectiveError where there is none."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = set(configured if isinstance(configured, list) else [configured])
    ends |= {tokenizer.eos_token_id, _template_end(tokenizer, template)}
    ends.discard(None)
    if not ends:
        raise ObjectiveError(
            "no token ends an answer: the tokenizer has no EOS token, and the chat template puts no special token "
            "behind an answer; set eos_token in tokenizer_config.json"
        )
    return frozenset(ends)


def _template_end(tokenizer: Any, template: str) -> int | None:
    """The first special token behind an answer; None where there is none, or the template leaves the answer out."""
    content = "quokka"  # a word that no template has
    text = render(tokenizer, template, [("user", "question"), ("assistant", content)], answer=False)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    behind = encode_text(tokenizer, text.partition(content)[2])
    return next((token for token in behind if token in special), None)


def check_positions(model: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Raise ObjectiveError where the longest prompt and its answer do not fit in the model's positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt_tokens + new_tokens > positions:
        raise ObjectiveError(
            f"a prompt of {prompt_tokens} tokens with {new_tokens} new ones exceeds the model's {positions} positions; "
            f"lower max_new_tokens to {positions - prompt_tokens} or leave the prompt out"
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode in which it was.

    no_grad, not inference_mode: bitsandbytes casts a bias in place at its first use, and a parameter that was made in
    inference mode cannot be trained or updated afterwards. Both are as fast.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def decode(model: Any, rows: Sequence[Tokens], ends: Collection[int], max_new_tokens: int) -> list[Tokens]:
    """Greedy continuations of one batch, each with the end token that ended it, if one did. Rows leave as they end."""
    batch = Decoding(model, rows)
    answers: list[Tokens] = [[] for _ in rows]
    alive = list(range(len(rows)))
    while True:
        tokens = batch.step()
        staying = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            answers[row].append(token)
            if token not in ends and len(answers[row]) < max_new_tokens:
                staying.append(place)
        if not staying:
            return answers
        if len(staying) < len(alive):
            batch.keep(staying)
            alive = [alive[place] for place in staying]


class Decoding:
    """One batch in the middle of greedy decoding: its cache and, for each row, mask, position and newest token."""

    def __init__(self, model: Any, rows: Sequence[Tokens]) -> None:
        width = max(map(len, rows))
        self._model = model
        self._ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)
        self._mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache = DynamicCache(config=model.config)
        self._optional = _optional_arguments(model)

    def step(self) -> torch.Tensor:
        """The next token of every row, shape (rows,). The first call reads the prompts, later ones the newest token."""
        given = {"position_ids": self._positions, "logits_to_keep": 1}
        logits = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: given[name] for name in self._optional},
        ).logits
        tokens: torch.Tensor = logits[:, -1].argmax(-1)
        self._ids = tokens[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
        self._positions = self._positions[:, -1:] + 1
        return tokens

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, numbered as they are now."""
        index = torch.tensor(rows, device=self._ids.device)
        self._ids, self._mask, self._positions = self._ids[index], self._mask[index], self._positions[index]
        self._cache.reorder_cache(index)  # unlike batch_select_indices, every kind of cache layer has it


def _optional_arguments(model: Any) -> list[str]:
    """Which of the arguments that not every architecture takes this one takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    accepted = inspect.signature(base.forward).parameters
    return [name for name in ("position_ids", "logits_to_keep") if name in accepted]
