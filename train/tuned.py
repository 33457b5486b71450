"""Whether a model was tuned for chat already, by what its name and its files say. Imports no torch.

Evidence is a name that says so (Llama-3.1-8B-Instruct, gemma-2-2b-it, Llama-2-7b-chat-hf), that of a family of chat
models (zephyr-7b-beta), or an end of text that is the end of a chat turn (<|im_end|>, <|eot_id|>): a base model ends
documents, with <|endoftext|> or its like. A chat template is none: Qwen2.5's base models have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.catalog import TUNED_FAMILIES
from train.shards import json_object

TURN_ENDS = frozenset(
    ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<|end_of_turn|>", "<|end_of_role|>", "<|return|>")
)

_MARK = re.compile(r"[-_.](instruct|chat|sft|dpo|rlhf|orpo|it(?=$|[-_.](?:v?\d|hf|qat)))(?=$|[-_.])", re.IGNORECASE)
_FAMILY = re.compile(rf"(?:^|[-_.])({'|'.join(TUNED_FAMILIES)})(?=$|[-_.\d])", re.IGNORECASE)
_EOS_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def why_tuned(model: str, folder: Path, config: Mapping[str, Any]) -> str | None:
    """The evidence that the model with this id or path was tuned for chat, as part of a sentence; None where there is
    none. `config` is its config.json."""
    for name in (model, str(folder.resolve()), str(config.get("_name_or_path") or "")):
        if mark := _MARK.search(Path(name).name):
            return f"its name, {Path(name).name}, says {mark[1]}"
        if family := _FAMILY.search(Path(name).name):
            return f"its name, {Path(name).name}, is that of a family of chat models, {family[1]}"
    for file, token in _ends(folder, config):
        if token in TURN_ENDS:
            return f"its {file} ends texts with {token}, the end of a chat turn"
    return None


def base_name(model: str) -> str:
    """The name of a chat model without what says that it is one: Qwen/Qwen2.5-7B for Qwen/Qwen2.5-7B-Instruct."""
    owner, slash, name = model.rpartition("/")
    return owner + slash + _MARK.sub("", name)


def eos_token(folder: Path) -> str | None:
    """The tokenizer's EOS token, as its configuration names it."""
    for file in _EOS_FILES:
        if (folder / file).exists() and (token := _text(json_object(folder / file).get("eos_token"))):
            return token
    return None


def _ends(folder: Path, config: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What ends a text by the model's files: (file, token)."""
    if token := eos_token(folder):
        yield "tokenizer_config.json", token
    path = folder / "generation_config.json"
    generation = json_object(path) if path.exists() else {}
    wanted = [
        (file, number)
        for file, values in (("generation_config.json", generation), ("config.json", config))
        for number in _numbers(values.get("eos_token_id"))
    ]
    tokens = _added_tokens(folder) if wanted else {}
    for file, number in wanted:
        if number in tokens:
            yield file, tokens[number]


def _numbers(value: object) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]


def _added_tokens(folder: Path) -> dict[int, str]:
    """Special tokens by id."""
    path = folder / "tokenizer_config.json"
    decoder = json_object(path).get("added_tokens_decoder") if path.exists() else None
    if isinstance(decoder, dict):
        return {int(number): _text(entry) or "" for number, entry in decoder.items() if str(number).isdigit()}
    path = folder / "tokenizer.json"
    entries = json_object(path).get("added_tokens") if path.exists() else None
    return {
        e["id"]: str(e.get("content")) for e in entries or () if isinstance(e, dict) and isinstance(e.get("id"), int)
    }


def _text(token: object) -> str | None:
    """A token as files write it: itself, or an object that has it as its content."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
