"""Training prompts that overlap with the prompts that a model will be judged by. Imports no torch.

Two texts overlap where they share eight words in a row, case and punctuation aside (as Tulu 3 did it, Lambert et al.
2024, section 3.2); an evaluation prompt of fewer words has to be the whole training prompt. Only what a user or a
system message says is compared, not the answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from train.recipe import PromptFile, RecipeError

WIDTH = 8  # words in a row

Sequences = frozenset[tuple[str, ...]]


def overlaps(text: str, sequences: Sequences) -> bool:
    """Whether WIDTH words in a row of the text, or all its words, are among the sequences."""
    words = _words(text)
    return tuple(words) in sequences or not sequences.isdisjoint(_in_a_row(words))


def sequences_of(files: tuple[PromptFile, ...]) -> Sequences:
    """Every WIDTH words in a row of the prompts in these files, and all words of the shorter ones.

    Raises RecipeError where a file is not there, is not the one that was pinned, or holds no prompts.
    """
    return frozenset().union(*(_sequences(file, digest(file)) for file in files))


def digest(file: PromptFile) -> str:
    """SHA-256 of a file of evaluation prompts. Raises RecipeError where it is missing, or not the one pinned."""
    found = hashlib.sha256(_bytes(file)).hexdigest()
    if file.sha256 not in (None, found):
        raise RecipeError(
            f"{file.path}, the evaluation prompts that the data must not overlap with, is not the file that was "
            f"pinned: its sha256 is {found}, not {file.sha256}; put that one back"
        )
    return found


@lru_cache(maxsize=4)
def _sequences(file: PromptFile, sha256: str) -> Sequences:
    found: set[tuple[str, ...]] = set()
    for prompt in _prompts(file):
        words = _words(prompt)
        found.update(_in_a_row(words) if len(words) >= WIDTH else [tuple(words)])
    return frozenset(found - {()})


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _in_a_row(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[offset:] for offset in range(WIDTH)), strict=False)


def _bytes(file: PromptFile) -> bytes:
    try:
        return Path(file.path).expanduser().read_bytes()
    except OSError as error:
        pinned = f" (its sha256 is {file.sha256})" if file.sha256 else ""
        raise RecipeError(
            f"{file.path}, the evaluation prompts that the data must not overlap with, cannot be read: "
            f'{error.strerror}. Put the file there{pinned}; or, where overlap may stay, set overlap = "keep" in the '
            "filters of the data source"
        ) from None


def _prompts(file: PromptFile) -> Iterator[str]:
    for number, line in enumerate(_bytes(file).decode("utf-8-sig", "replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, TypeError, KeyError):
            prompt = None
        if not isinstance(prompt, str):
            raise RecipeError(f"{file.path}, line {number}: no evaluation prompt; each line is an object with a prompt")
        yield prompt
