"""Whether prompts and their answers fit into a model's positions, seen before it is loaded. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives.score import ObjectiveError
from objectives.template import Template, special_tokens

NAMED = 5  # prompts that cannot be read, at most


def check_file(
    path: Path,
    folder: Path | None,
    template: str | None,
    positions: int,
    new_tokens: int,
    lower: str,
    keys: Collection[int] | None = None,
) -> None:
    """Raise ObjectiveError where a prompt of the file (those with `keys`, or all) and `new_tokens` are more than
    `positions`; `lower` says how a user makes answers shorter: "lower --max-new-tokens".

    `folder` holds the tokenizer. Where it has no tokenizer.json, or nothing says how a chat looks, only the new tokens
    are compared; the model itself compares all of them later.
    """
    if folder is None or template is None or not (folder / "tokenizer.json").is_file():
        if new_tokens >= positions:
            raise ObjectiveError(
                f"{new_tokens:,} new tokens leave no room for a prompt in the model's {positions:,} positions: {lower}"
            )
        return
    rows = [(number, row) for number, row in _rows(path) if keys is None or row["key"] in keys]
    lengths = _lengths([row["prompt"] for _, row in rows], folder, template)
    names = [f"prompt {row['key']} (line {number} of {path})" for number, row in rows]
    check(names, lengths, positions, new_tokens, lower)


def check_frozen(
    objective: Mapping[str, Any], prompts: Path, folder: str | None, template: str | None, positions: int
) -> None:
    """The same for what is frozen as a final run's objective."""
    lower = "freeze with max_new_tokens in [final] of the study lowered"
    check_file(prompts, Path(folder) if folder else None, template, positions, objective["max_new_tokens"], lower)


def check(names: Sequence[str], lengths: Sequence[int], positions: int, new_tokens: int, lower: str) -> None:
    """Raise ObjectiveError where prompts of these lengths, in tokens, and their answers do not fit."""
    longest, name = max(zip(lengths, names, strict=True), default=(0, ""))
    if longest + new_tokens <= positions:
        return
    unreadable = [name for name, length in zip(names, lengths, strict=True) if length >= positions]
    if unreadable:
        more = f" and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        raise ObjectiveError(
            f"this model cannot read {', '.join(unreadable[:NAMED])}{more}: with the chat template, up to "
            f"{longest:,} tokens, and it has {positions:,} positions; leave such prompts out, or take a model with more"
        )
    raise ObjectiveError(
        f"{name} has {longest:,} tokens with the chat template, and with {new_tokens:,} new ones that is more than the "
        f"model's {positions:,} positions: {lower} to {positions - longest}"
    )


def _lengths(prompts: Sequence[str], folder: Path, template: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chat = Template(template, special_tokens(folder))
    encoded = tokenizer.encode_batch([chat(prompt) for prompt in prompts], add_special_tokens=False)
    return [len(one.ids) for one in encoded]


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The prompts of a file that was read before, with the number of each line."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [(number, json.loads(line)) for number, line in enumerate(lines, start=1) if line.strip()]
