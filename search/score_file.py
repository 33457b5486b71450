"""A folder with a score: its score.json, read and checked, and the settings it was made with. Imports no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from objectives.score import Score
from search.errors import SearchError
from train.rundir import Json, read_json

SCORE, SETTINGS, SAMPLES, ANSWERS = "score.json", "settings.json", "samples.jsonl", "answers"


class _Settings(BaseModel):
    """What every score was made with; there is more, which depends on the machine."""

    model_config = ConfigDict(extra="allow", strict=True)

    device: str
    weights: Literal["nf4", "full"]
    max_new_tokens: int
    batch_size: int


class _Record(BaseModel):
    """score.json. `asked` is what settings.json holds, `settings` what came of it: the template's text, another engine
    where vLLM could not be used."""

    model_config = ConfigDict(strict=True)

    model: str
    base: str
    adapter: str | None
    prompts: str
    texts: dict[str, str]
    asked: dict[str, Any]
    settings: _Settings
    fallback: str | None
    scores: dict[Literal["search", "sealed", "all"], Score]


def read(path: Path) -> Json | None:
    """The record in a score.json, or None where there is no such file. Raises ValueError where it is damaged."""
    record = read_json(path)
    if record is None:
        return None
    try:
        checked = _Record.model_validate_json(json.dumps(record))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not checked.scores or not all(key.lstrip("-").isdecimal() for key in checked.texts):
        raise ValueError("it holds no score of any prompts")
    return record


def held(out: Path) -> Json | None:
    """The score in a folder, or None. Raises SearchError where its file is damaged."""
    try:
        return read(out / SCORE)
    except ValueError:
        raise _damaged(out / SCORE) from None


def asked(out: Path) -> Json | None:
    """The settings of what a folder holds: those of its score, else those with which answers to it were begun; None
    where it holds no answers. Raises SearchError where a file is damaged."""
    record = held(out)
    if record is not None:
        of_score: Json = record["asked"]
        return of_score
    if not any(out.glob(f"{ANSWERS}-*.jsonl")):
        return None
    try:
        return read_json(out / SETTINGS)
    except ValueError:
        raise _damaged(out / SETTINGS) from None


def _damaged(path: Path) -> SearchError:
    return SearchError(
        f"{path} is damaged; remove it, and what was answered already is scored again: {shlex.join(['rm', str(path)])}"
    )


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raise SearchError, naming what differs, where `out` holds answers that other settings gave."""
    before, now = asked(out), json.loads(json.dumps(settings))
    if before is None or before == now:
        return
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    away = shlex.join(["mv", str(out), f"{out}-old"])
    changes = "; ".join(_change(name, before.get(name), now.get(name)) for name in names)
    raise SearchError(
        f"{out} holds answers that were made with other settings ({changes}): give another folder with --out, or move "
        f"this one away: {away}"
    )


def _change(name: str, before: Any, now: Any) -> str:
    if name == "versions":
        differ = [k for k in {**(before or {}), **(now or {})} if (before or {}).get(k) != (now or {}).get(k)]
        return ", ".join(f"{k} {(before or {}).get(k)}, now {(now or {}).get(k)}" for k in differ)
    if name == "chat_template" or name.endswith("sha256"):
        return f"another {name.removesuffix('_sha256').replace('_', ' ')}"
    return f"{name} {before}, now {now}"
