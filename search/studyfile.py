"""A TOML file as a person wrote it: its tables, the line on which each key stands, and everything wrong with it.

tomllib gives values without their places. `Places` finds those in a text that tomllib accepts, so that every problem
can be shown as `study.toml:12: [space] learning_rate: low 0.1 is above high 0.01; swap them`.
"""

from __future__ import annotations

import bisect
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.errors import ConfigError

Loc = tuple[str | int, ...]  # ("data", 1, "path"): the key `path` of the second [[data]]
Table = dict[str, Any]

_STRING = r'"""(?:\\.|[^\\])*?"""(?!")' + r"|'''.*?'''(?!')" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'"
_TOKEN = re.compile(
    rf"(?s:(?P<string>{_STRING}))|(?P<comment>#[^\n]*)|(?P<bare>[A-Za-z0-9_-]+)|(?P<mark>[\[\]{{}}=.\n])"
)
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_OTHER_NAMES = {  # what other tools call our keys
    "lr": "learning_rate",
    "r": "rank",
    "lora_r": "rank",
    "lora_alpha": "alpha_ratio",
    "alpha": "alpha_ratio",
    "target_modules": "targets",
    "max_seq_length": "max_length",
    "beta": "dpo_beta",
    "epochs": "rows",
    "model_name": "model",
}
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Places:
    """The line of every key and table of a TOML text, and the keys that are there twice."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Loc, int] = {}
        self.twice: list[tuple[Loc, int, int]] = []  # (key, second line, first line)
        self._arrays: dict[Loc, int] = {}
        self._declared: dict[Loc, int] = {}
        table: Loc = ()
        for line, tokens in _statements(text):
            if tokens[0] == "[":
                table = self._header(tokens, line)
            elif "=" in tokens:
                self._declare((*table, *_keys(tokens[: tokens.index("=")])), line)

    def line(self, loc: Loc) -> int:
        """The line of `loc`, or of the nearest thing around it; 1 where there is none."""
        for end in range(len(loc), 0, -1):
            part = loc[:end]
            dotted: Loc = tuple(k for key in part for k in (key.split(".") if isinstance(key, str) else [key]))
            for known in (part, dotted):
                if known in self.lines:
                    return self.lines[known]
        return 1

    def _header(self, tokens: list[str], line: int) -> Loc:
        is_array = tokens[1:2] == ["["]
        keys = _keys(t for t in tokens if t not in "[]")
        parent = self._resolve(keys[:-1])
        table: Loc = (*parent, keys[-1]) if keys else parent
        if not is_array:
            self._declare(self._resolve(keys), line)
            return self._resolve(keys)
        self._arrays[table] = self._arrays.get(table, -1) + 1
        self.lines.setdefault(table, line)
        self.lines[(*table, self._arrays[table])] = line
        return (*table, self._arrays[table])

    def _resolve(self, keys: Iterable[str]) -> Loc:
        """The keys of a header with the number of the last entry behind each array of tables."""
        out: Loc = ()
        for key in keys:
            out = (*out, key)
            if out in self._arrays:
                out = (*out, self._arrays[out])
        return out

    def _declare(self, loc: Loc, line: int) -> None:
        if loc in self._declared:
            self.twice.append((loc, line, self._declared[loc]))
        self._declared.setdefault(loc, line)
        for end in range(1, len(loc) + 1):
            self.lines.setdefault(loc[:end], line)


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each header and each `key = value` of the text: its first line and its tokens."""
    newlines = [match.start() for match in re.finditer("\n", text)]
    tokens: list[str] = []
    first, depth = 1, 0
    for match in _TOKEN.finditer(text + "\n"):
        token = match.group()
        if match.lastgroup == "comment":
            continue
        if token == "\n":
            if depth <= 0 and tokens:
                yield first, tokens
                tokens, depth = [], 0
            continue
        if not tokens:
            first = bisect.bisect_left(newlines, match.start()) + 1
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        tokens.append(token)


def _keys(tokens: Iterable[str]) -> list[str]:
    return [_unquoted(token) for token in tokens if token != "."]


def _unquoted(token: str) -> str:
    if token[0] not in "\"'":
        return token
    try:
        return str(tomllib.loads(f"key = {token}")["key"])
    except tomllib.TOMLDecodeError:
        return token


@dataclass
class StudyFile:
    """A file that was read, and the problems found in it so far."""

    path: Path
    text: str
    table: Table
    places: Places
    _problems: list[tuple[int, str]] = field(default_factory=list)

    def add(self, loc: Loc, problem: str) -> None:
        """Note what is wrong at `loc`, and how to mend it."""
        line = self.places.line(loc)
        where = self._where(loc)
        self._problems.append((line, f"{self.path}:{line}: {where}{': ' if where else ''}{problem}"))

    @contextmanager
    def noting(self, loc: Loc) -> Iterator[None]:
        """Note each line of a ValueError that the block raises, instead of raising it."""
        try:
            yield
        except ValueError as error:
            for problem in str(error).split("\n"):
                self.add(loc, problem)

    def raise_problems(self) -> None:
        """Raise ConfigError with one line for each problem, in the order of the file; nothing where there is none."""
        if self._problems:
            raise ConfigError("\n".join(dict.fromkeys(text for _, text in sorted(self._problems, key=lambda p: p[0]))))

    def _where(self, loc: Loc) -> str:
        """`[space] learning_rate`, or `[[data]] noisy: weight` for an entry that has a name."""
        if not loc:
            return ""
        section, rest = loc[0], loc[1:]
        if not rest or not isinstance(rest[0], int):
            is_table = isinstance(self.table.get(str(section), {}), dict)
            return " ".join([f"[{section}]" if rest or is_table else str(section), *_path(rest)])
        entries = self.table.get(str(section))
        entry = entries[rest[0]] if isinstance(entries, (list, tuple)) and rest[0] < len(entries) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        label = name if isinstance(name, str) and name else f"number {rest[0] + 1}"
        return " ".join([f"[[{section}]] {label}", *_path(rest[1:])])


def _path(keys: Loc) -> list[str]:
    return [".".join(str(key) for key in keys)] if keys else []


def read(path: Path) -> StudyFile:
    """Read and parse `path`. Raises ConfigError: no such file, not UTF-8, not TOML (file:line:column)."""
    return parse(path, _decoded(path, _bytes(path)).replace("\r\n", "\n"))


def parse(path: Path, text: str) -> StudyFile:
    """The study file that `text` is; `path` is where problems are said to be."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(path, text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{path}: lists or tables are nested too deeply to read") from None
    return StudyFile(path, text, table, Places(text))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `nightshift init` writes one") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder; give the study.toml in it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: it cannot be read: {reason}") from None


def _decoded(path: Path, data: bytes) -> str:
    if data.startswith(_BYTE_ORDER_MARKS):
        raise ConfigError(f"{path}: this is UTF-16 or UTF-32; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        byte = data[error.start]
        raise ConfigError(f"{path}:{line}:{column}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8") from None


def _syntax(path: Path, text: str, message: str) -> str:
    """tomllib's message with its place in front, and in plainer words where a key is there twice."""
    places = Places(text)
    if places.twice and message.startswith(("Cannot overwrite", "Cannot declare")):
        return "\n".join(
            f"{path}:{line}: {'.'.join(map(str, loc))} is already there on line {first}; keep one of the two"
            for loc, line, first in places.twice
        )
    at = _AT.search(message)
    line, column = (int(at[1]), int(at[2])) if at and at[1] else (text.count("\n") + 1, 1)
    hint = '; a time goes in quotes: until = "03:00"' if _is_bare_time(text, line) else ""
    return f"{path}:{line}:{column}: this is not TOML: {_AT.sub('', message)}{hint}"


def _is_bare_time(text: str, line: int) -> bool:
    lines = text.split("\n")
    return line <= len(lines) and re.match(r"\s*until\s*=\s*\d", lines[line - 1]) is not None


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean x? (known: x, y, z)`, or the known words alone where none is near."""
    names = list(known)
    close = [_OTHER_NAMES[word]] if _OTHER_NAMES.get(word) in names else difflib.get_close_matches(word, names, n=1)
    listed = ", ".join(names)
    return f"did you mean {close[0]}? (known: {listed})" if close else f"known: {listed}"


def spelled(value: object) -> str:
    """A value as it stands in TOML, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"{value}"
