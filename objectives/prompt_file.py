"""A file of prompts in IFEval's format, read and checked as far as that goes without the checkers. Imports no torch."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from objectives import kwargs
from objectives.score import INSTRUCTIONS, ObjectiveError, Prompt

FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
MOST = 20  # problems of a file, told at once
WORDS = {  # pydantic's kinds of error, in ours
    "int_type": "it has to be a whole number",
    "string_type": "it has to be a string",
    "string_too_short": "it is empty",
    "tuple_type": "it has to be a list",
    "too_short": "it is empty",
    "dict_type": "it has to be an object",
}


@dataclass(frozen=True)
class Line:
    """One line of a file: its number from 1, its prompt where its fields can be read, and what is wrong with it."""

    number: int
    prompt: Prompt | None
    wrong: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"line {self.number}, key {self.prompt.key}" if self.prompt else f"line {self.number}"


@dataclass(frozen=True)
class PromptFile:
    """The lines of a file that are not blank, and the SHA-256 of its bytes."""

    path: Path
    sha256: str
    lines: tuple[Line, ...]

    def prompts(self, more: Iterable[tuple[str, str]] = (), between: str = "\n  ") -> tuple[Prompt, ...]:
        """The prompts. Raises ObjectiveError with all that is wrong, and `more` of it (place, problem)."""
        wrong = [(line.place, problem) for line in self.lines for problem in line.wrong] + list(more)
        if wrong:
            told = f"{between}".join(["is no file of IFEval prompts:", *grouped(wrong, MOST)])
            raise ObjectiveError(f"{self.path} {told}")
        found = tuple(line.prompt for line in self.lines if line.prompt)
        if not found:
            raise ObjectiveError(
                f"{self.path} holds no prompt; it needs one JSON object a line with {', '.join(FIELDS)}"
            )
        return found


def read(path: Path) -> PromptFile:
    """The file, with every error of each line: not JSON, a field missing or of a wrong type, an unknown instruction id,
    missing or unusable kwargs, a key that occurs twice. A byte order mark and other fields are left out.

    Raises ObjectiveError where it cannot be read at all.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ObjectiveError(f"{path} does not exist; give the path of a JSONL file of IFEval prompts") from None
    except UnicodeDecodeError as error:
        raise ObjectiveError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ObjectiveError(f"{path} cannot be read: {error.strerror}") from None
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lines = [Line(number, *_parsed(line)) for number, line in numbered]
    return PromptFile(path, hashlib.sha256(data).hexdigest(), tuple(_with_repeated(lines)))


def _with_repeated(lines: Iterable[Line]) -> Iterable[Line]:
    """Verdicts are kept by key, so a key that two lines have is an error."""
    first: dict[int, int] = {}
    for line in lines:
        if line.prompt and (earlier := first.setdefault(line.prompt.key, line.number)) != line.number:
            said = f"key {line.prompt.key} is already that of line {earlier}; give every prompt its own key"
            line = Line(line.number, line.prompt, (*line.wrong, said))
        yield line


def _parsed(line: str) -> tuple[Prompt | None, tuple[str, ...]]:
    try:
        row = json.loads(line)
        line.encode()
    except (ValueError, RecursionError):
        return None, ("not JSON",)
    if not isinstance(row, dict):
        return None, (f"holds a JSON {type(row).__name__}; an object with {', '.join(FIELDS)} is needed",)
    if missing := [field for field in FIELDS if field not in row]:
        return None, (f"lacks {', '.join(missing)}; it has {', '.join(sorted(row)) or 'nothing'}",)
    try:
        prompt = Prompt.model_validate_json(json.dumps({field: row[field] for field in FIELDS}))
    except ValidationError as error:
        told = (_wrong_type(e["loc"], e["type"], e["msg"]) for e in error.errors(include_url=False))
        return None, tuple(dict.fromkeys(told))
    return prompt, tuple(dict.fromkeys(_wrong_instructions(prompt)))


def _wrong_type(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """One line for a field of a wrong type; pydantic has one for each type that a value of kwargs might have."""
    if not place:
        return "holds characters that no text can have (half of a surrogate pair)"
    if place[0] == "kwargs" and len(place) > 3:
        place, message = place[:3], "it has to be a string, a number, a list of strings or null"
    return f"{'.'.join(map(str, place))}: {WORDS.get(kind, message) if len(place) < 3 else message}"


def _wrong_instructions(prompt: Prompt) -> list[str]:
    names, given = prompt.instruction_id_list, prompt.kwargs
    if len(given) != len(names):
        return [f"has {len(names)} instruction{'s' * (len(names) != 1)} and {len(given)} kwargs; one each is needed"]
    wrong: list[str] = []
    for name, of_name in zip(names, given, strict=True):
        if name not in INSTRUCTIONS:
            nearest = difflib.get_close_matches(name, INSTRUCTIONS, n=1, cutoff=0.0)[0]
            wrong.append(f"{name} is no instruction type of IFEval; the nearest one is {nearest}")
        else:
            wrong += kwargs.problems(name, of_name)
    return wrong


def grouped(wrong: Iterable[tuple[str, str]], most: int) -> list[str]:
    """One sentence for each problem of (place, problem) pairs, with the first place and how many more there are; `most`
    of them, and how many are left out."""
    places: dict[str, list[str]] = {}
    for place, problem in wrong:
        places.setdefault(problem, []).append(place)
    told = [f"{_where(at)}: {problem}" for problem, at in places.items()]
    return told[:most] + [f"and {len(told) - most} more"] * (len(told) > most)


def _where(places: Sequence[str]) -> str:
    more = len(places) - 1
    return places[0] + (f" and {more:,} more line{'s' * (more > 1)}" if more else "")
