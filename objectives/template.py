"""A chat template as transformers renders it, tried before transformers is loaded. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from objectives.score import ObjectiveError

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TRIED = ("quokka", "wombat")  # words that no template has
SHOWN = 120  # characters of what became of one


class _Generation(Extension):
    """{% generation %}, with which templates mark an answer: its body, as it is."""

    tags = {"generation"}  # noqa: RUF012, which is jinja2's way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Template:
    """Puts a user's prompt into a chat. `special` are the tokenizer's tokens by name, as a template may use them.

    Raises ObjectiveError, the end of a sentence that begins with what gave the template, where it is no Jinja.
    """

    def __init__(self, text: str, special: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            self._compiled = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise ObjectiveError(f"is no Jinja: line {error.lineno}: {error.message}; correct it") from None
        self._special = special

    def __call__(self, prompt: str) -> str:
        """The text of the chat that a model is to answer. Raises ObjectiveError."""
        messages = [{"role": "user", "content": prompt}]
        try:
            return self._compiled.render(messages=messages, add_generation_prompt=True, **self._special)
        except Exception as error:  # whatever an expression in it raises
            raise ObjectiveError(f"fails on a user message: {error}; correct it") from None

    def check(self) -> None:
        """Raise ObjectiveError where a prompt is not in what it makes of it."""
        for word in TRIED:
            if word not in (text := self(word)):
                made = f"it makes {text[:SHOWN]!r} of the prompt {word!r}" if text.strip() else "it makes nothing of it"
                raise ObjectiveError(f"never shows what a user says: {made}; correct it, with messages' content in it")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=how.get("ensure_ascii", False), indent=how.get("indent"))


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that the tokenizer in `folder` names, by name."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            held = json.loads((folder / file).read_text(encoding="utf-8"))
            named = {name: held.get(name) for name in SPECIAL}
        except (OSError, ValueError, AttributeError):
            continue
        for name, token in named.items():
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                found[name] = text
    return found
