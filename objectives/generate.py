"""Prompts in, greedy answers out (objectives.decoding), kept as they are made.

The longest prompts come first, in segments of a few batches. Within a segment waiting prompts take the places of those
that are answered; at its end its answers are kept, so that scoring that was killed goes on with the next segment.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jinja2
import torch

from objectives import positions
from objectives.answers import AnswerLog
from objectives.decoding import EVERY, Tokens, decode
from objectives.inference import evaluating
from objectives.plain import plainly, prepared
from objectives.score import Answer, ObjectiveError

QUOTED = 40  # characters of a prompt that is told by its beginning
SEGMENT = 4  # batches: a kill costs as much, and at a segment's end the batch runs empty
Stop = Callable[[str], bool]


class Generator:
    """Answers prompts, at most `batch_size` of them at a time.

    Every prompt is put into the chat template (None: the tokenizer's) as a user's single message. An answer ends with
    any of `end_tokens`, or at `max_new_tokens` and is then `capped`. Logits depend on `batch_size` in their last bits:
    keep it fixed within a study. The model is in evaluation mode during a call and in its earlier modes after it; no
    random number is drawn. `before_batch` is called every few steps and may raise.

    Where memory runs out, the batch is halved for good, once, and `halved` is true. Where a first try on a few prompts
    differs from `model.generate`, that is used instead, with a warning, and `fallback` says why.

    Raises ObjectiveError without a chat template or an end token, where a prompt and its answer exceed the model's
    positions, and where memory runs out with half the batch, too.
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
        self.halved = False
        self.fallback: str | None = None
        self.model = model
        self._tokenizer = tokenizer

    def __call__(
        self, prompts: Sequence[str], stop: Sequence[Stop] | None = None, log: AnswerLog | None = None
    ) -> list[Answer]:
        """One answer for each prompt, in the same order.

        `stop[i]` sees answer i so far, every EVERY tokens and without a last character that is incomplete; where it
        returns True, the answer ends there and is `decided`. What `log` holds is taken from it and what is made is put
        there, segment by segment; its identity has to tell apart whether there is a `stop`.
        """
        assert stop is None or len(stop) == len(prompts), len(prompts)
        rows = self.encode(prompts)
        self._check_room(prompts, rows)
        longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # what exhausts memory comes first
        answers: dict[int, Answer] = {}
        ready = False
        with ExitStack() as contexts:
            for start in range(0, len(rows), SEGMENT * self.batch_size):
                segment = longest_first[start : start + SEGMENT * self.batch_size]
                made = log.get(segment) if log is not None else None
                self.halved = self.halved or (log is not None and log.halved)
                if made is None:
                    if not ready:
                        self._prepare(contexts, [rows[i] for i in longest_first[-3:]])
                        ready = True
                    began = time.perf_counter()
                    made = self._answers([rows[i] for i in segment], [stop[i] for i in segment] if stop else None)
                    if log is not None:
                        log.halved = self.halved
                        log.put(segment, made, time.perf_counter() - began)
                answers |= zip(segment, made, strict=True)
        return [answers[i] for i in range(len(rows))]

    def check(self, prompts: Sequence[str]) -> None:
        """Raise ObjectiveError where a prompt and its answer do not fit into the model's positions."""
        self._check_room(prompts, self.encode(prompts))

    def _check_room(self, prompts: Sequence[str], rows: Sequence[Tokens]) -> None:
        if (limit := most_positions(self.model)) is not None:
            names = [f"the prompt that begins {prompt[:QUOTED]!r}" for prompt in prompts]
            lower = "lower the length of answers (max_new_tokens)"
            positions.check(names, [len(row) for row in rows], limit, self.max_new_tokens, lower)

    def encode(self, prompts: Sequence[str]) -> list[Tokens]:
        """Each prompt as the model sees it: templated, with the generation prompt, without a second BOS token."""
        texts = [render(self._tokenizer, self.chat_template, [("user", prompt)]) for prompt in prompts]
        if not texts:  # of which a tokenizer makes nothing that has rows
            return []
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [list(row) for row in encoded]

    def _prepare(self, contexts: ExitStack, few: list[Tokens]) -> None:
        """Evaluation mode, the model made ready, the try on a few prompts."""
        contexts.enter_context(evaluating(self.model))
        self.fallback = contexts.enter_context(prepared(self.model, few, self.end_tokens, self.max_new_tokens))
        if self.fallback:
            warnings.warn(f"answers are made by model.generate, which is slower: {self.fallback}", stacklevel=3)

    def _answers(self, rows: list[Tokens], stop: list[Stop] | None) -> list[Answer]:
        """The answers to one segment, with half the batch where the whole one exhausts memory."""
        while True:
            size = max(1, self.batch_size // 2) if self.halved else self.batch_size
            try:
                return self._decoded(rows, stop, size)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self.halved or size == 1:
                    raise ObjectiveError(
                        f"memory ran out while {size} prompts were answered at once, up to {self.max_new_tokens} new "
                        f"tokens each; set batch_size to {max(1, size // 2)} or lower, or lower max_new_tokens"
                    ) from error
            self.halved = True  # outside of the handler: the error holds what is to be freed
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _decoded(self, rows: list[Tokens], stop: list[Stop] | None, size: int) -> list[Answer]:
        decided: dict[int, str] = {}

        def ended(row: int, tokens: Tokens) -> bool:
            if stop is None or len(tokens) % EVERY:
                return False
            text = self._text(tokens).rstrip("\ufffd")  # what the decoder makes of the bytes of half a character
            if stop[row](text):
                decided[row] = text
            return row in decided

        if self.fallback is None:
            made = decode(self.model, rows, self.end_tokens, self.max_new_tokens, size, ended, self.before_batch)
        else:
            made = []
            for start in range(0, len(rows), size):
                self.before_batch()
                made += plainly(self.model, rows[start : start + size], self.end_tokens, self.max_new_tokens)[0]
        return [self._answer(tokens, decided.get(row)) for row, tokens in enumerate(made)]

    def answers(self, made: Sequence[Tokens]) -> list[Answer]:
        """Answers out of the tokens, end tokens included, that something else made of the same model."""
        return [self._answer(tokens) for tokens in made]

    def release(self) -> None:
        """Let the model go, so that its memory is free; `encode` and `answers` still work."""
        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _answer(self, tokens: Tokens, decided: str | None = None) -> Answer:
        if decided is not None:
            return Answer(text=decided, tokens=len(tokens), capped=False, decided=True)
        ended = tokens[-1] in self.end_tokens
        return Answer(text=self._text(tokens[:-1] if ended else tokens), tokens=len(tokens), capped=not ended)

    def _text(self, tokens: Tokens) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _out_of_memory(error: BaseException) -> bool:
    """On CUDA torch has an error of its own; on the CPU it says so in words."""
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(one in str(error) for one in words)


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
        raise ObjectiveError(
            f"the chat template fails at the {messages[-1][0]}'s message: {error}; repair it"
        ) from error
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


def most_positions(model: Any) -> int | None:
    """How many tokens the model tells apart by their place; None where its configuration names no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)
