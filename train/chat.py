"""Chats to tokens: the prompt as the model will see it, and the answer with the EOS that it shall learn."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from train.data.rows import Message
from train.recipe import Recipe, RecipeError

IGNORED = -100  # the label of a token that does not count


@dataclass(frozen=True)
class Ids:
    """The tokens of a chat: the prompt as the model will see it when it answers, and the answer with its EOS."""

    prompt: array[int]
    answer: array[int]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)

    def with_labels(self) -> tuple[list[int], list[int]]:
        """input_ids and labels: only the answer counts."""
        return [*self.prompt, *self.answer], [IGNORED] * len(self.prompt) + list(self.answer)


class Chat:
    """A tokenizer with a chat template. Raises RecipeError for a template that cannot show a chat."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.eos: int = tokenizer.eos_token_id

    def ids(self, prompt: Sequence[Message], answer: str, place: str) -> Ids:
        """The tokens of `answer` to `prompt`, whose tokens are those that generation starts from."""
        turns = [{"role": message.role, "content": message.content} for message in prompt]
        before = self._rendered(turns, place, add_generation_prompt=True)
        whole = self._rendered([*turns, {"role": "assistant", "content": answer}], place)
        if not whole.startswith(before):
            raise RecipeError(
                f"{place}: the chat template shows a prompt differently once it is answered, so that no answer could "
                f"be learned as it will be given: the prompt ends in {before[-40:]!r}, and with its answer the chat is "
                f"{whole[:160]!r}; give a chat_template in which the one begins with the other"
            )
        if answer.strip() and whole[len(before) :].strip() in ("", self.tokenizer.eos_token):
            raise RecipeError(
                f"{place}: the chat template leaves the assistant's answer out; give another chat_template"
            )
        prompt_ids, whole_ids = self._tokens(before), self._tokens(whole)
        if whole_ids[: len(prompt_ids)] == prompt_ids:
            answer_ids = whole_ids[len(prompt_ids) :]
        else:  # a token would span the edge; when the model answers, the prompt's tokens are there already
            answer_ids = self._tokens(whole[len(before) :])
        return Ids(array("i", prompt_ids), array("i", self._closed(answer_ids)))

    def _rendered(self, turns: list[dict[str, str]], place: str, *, add_generation_prompt: bool = False) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, chat_template=self.template, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise RecipeError(
                f"{place}: the chat template cannot show it: {error}; give another chat_template"
            ) from None
        return text

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _closed(self, ids: list[int]) -> list[int]:
        """The answer up to its EOS, which is appended where the template writes none at the end."""
        if self.eos in ids:
            end = len(ids) - ids[::-1].index(self.eos)
            if end == len(ids) or not self.tokenizer.decode(ids[end:]).strip():
                return ids[:end]
        return [*ids, self.eos]


def template_of(recipe: Recipe, tokenizer: Any) -> str:
    """The recipe's chat template, or else the tokenizer's."""
    if tokenizer.eos_token_id is None:
        raise RecipeError(
            "the tokenizer has no EOS token, so that no answer could learn to end: set eos_token in the model's "
            "tokenizer_config.json"
        )
    template = recipe.chat_template or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise RecipeError(
            "the tokenizer has no chat template, as is usual for a base model: set chat_template in the [recipe] "
            "section, a Jinja template over messages, for example "
            "\"{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '\\n' }}{% endfor %}"
            '{% if add_generation_prompt %}### assistant\\n{% endif %}"'
        )
    if "strftime_now" in template:
        raise RecipeError(
            "the chat template writes today's date (strftime_now), so that no run could be repeated; "
            "set a chat_template without it in the [recipe] section"
        )
    return str(template)
