"""What `nightshift compare` compares: scores that are stored, whoever made them. Reads only; imports no torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from objectives.score import ObjectiveError, Score
from search import freeze_file, score_file
from search.errors import FreezeDiffers, SearchError
from search.home import STUDY_FILE
from search.score_engine import OWN
from search.score_file import SAMPLES, SCORE
from search.score_model import models_of
from search.score_settings import text_digest
from train.rundir import Json, RunDir, read_json

WIDEST = ("all", "search", "sealed")
SETTINGS = ("chat_template", "max_new_tokens", "batch_size", "device", "threads", "weights", "engine", "versions")


@dataclass(frozen=True)
class Sample:
    """A prompt and a model's answer to it."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Stored:
    """A stored score. `texts` has a digest of each prompt's text, by key, as far as it is known; `samples` the answers
    where they were saved; `settings` what it was made with, where that was written down."""

    name: str
    part: str
    score: Score
    texts: Mapping[int, str]
    samples: Mapping[int, Sample]
    settings: Mapping[str, object] = field(default_factory=dict)
    ended: bool = False  # by the race, on the prompts that it was asked


def read(argument: str) -> Stored:
    """The score that a user means: a score.json, the folder that holds one, a RunDir, or a study's final folder.

    A RunDir's own scores/score.json comes before what the trial was scored on. Raises SearchError.
    """
    path = Path(argument).expanduser()
    if path.is_file():
        return _of_record(argument, path)
    for place in (path / SCORE, path / "scores" / SCORE):
        if place.is_file():
            return _of_record(argument, place)
    if (path / "result.json").is_file():
        return _of_run(argument, path)
    raise SearchError(f"{argument}: {_why_not(path)}")


def _why_not(path: Path) -> str:
    if path.name.isdecimal() and (number := path.with_name(f"{int(path.name):03d}")).is_dir():
        return f"there is no such run; did you mean {number}?"
    if not path.exists():
        return "there is no such file or folder; give what `nightshift score` wrote, a RunDir or a study's final folder"
    if (path / STUDY_FILE).is_file():
        return f"this is a study; {models_of(path)}"
    if (path / "recipe.json").is_file():
        return f"this run has no score yet; make one: nightshift score {path}"
    return f"there is no {SCORE} here; make one: nightshift score MODEL --out {path}"


def _of_record(name: str, path: Path) -> Stored:
    try:
        record = score_file.read(path)
    except ValueError as error:
        raise SearchError(
            f"{path} is no score that `nightshift score` wrote ({error}); score the model again"
        ) from None
    assert record is not None, path
    part = next(part for part in WIDEST if part in record["scores"])
    texts = {int(key): digest for key, digest in record["texts"].items()}
    return Stored(name, part, _score(record["scores"][part]), texts, _samples(path.parent), record["settings"])


def _of_run(name: str, path: Path) -> Stored:
    result: Json = read_json(path / "result.json") or {}
    scores = result.get("scores") or {}
    part = next((part for part in WIDEST if part in scores), "search")
    found = scores.get(part) or result.get("score")
    if not found:
        raise SearchError(f"{name}: this run was never scored (it is {result.get('outcome', 'not done')})")
    try:
        score = _score(found)
    except ValidationError:
        raise SearchError(
            f"{path / 'result.json'} holds a score that this version of Nightshift does not read; make one: "
            f"{shlex.join(['nightshift', 'score', str(path)])}"
        ) from None
    samples = _samples(path)
    texts = {key: text_digest(one.prompt) for key, one in samples.items()}
    ended = (result.get("race") or {}).get("behind") is not None
    return Stored(name, part, score, texts, samples, _settings_of(RunDir(path), result), ended)


def _settings_of(run: RunDir, result: Json) -> dict[str, object]:
    """What is known of how a run was scored: by its job, or the frozen file beside a final run, and its recipe."""
    try:
        job, recipe = read_json(run.job), read_json(run.recipe_path)
        frozen = run.path.resolve().with_name(freeze_file.FILE)
        asked = (job or {}).get("objective") or (freeze_file.constant(frozen)["objective"] if frozen.is_file() else {})
    except (AssertionError, OSError, KeyError, ValueError, FreezeDiffers):
        return {}
    known = {name: asked.get(name) for name in ("max_new_tokens", "batch_size")}
    known |= {"chat_template": (recipe or {}).get("chat_template"), "versions": result.get("versions")}
    known |= {"weights": "nf4", "engine": OWN.name}  # as every run is scored
    return {name: value for name, value in known.items() if value is not None}


def _score(found: Json) -> Score:
    return Score.model_validate_json(json.dumps(found))


def _samples(folder: Path) -> dict[int, Sample]:
    """The answers in a folder's samples.jsonl; none where there is no such file, or it is not whole."""
    try:
        lines = (folder / SAMPLES).read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return {row["key"]: Sample(row["prompt"], row["response"]) for row in rows}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def check_same_prompts(a: Stored, b: Stored) -> None:
    """Raise ObjectiveError where a key that both have stands for two texts, or where that cannot be known."""
    common = sorted({v.key for v in a.score.verdicts} & {v.key for v in b.score.verdicts})
    other = [key for key in common if key in a.texts and key in b.texts and a.texts[key] != b.texts[key]]
    if other:
        keys = ", ".join(map(str, other[:5])) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        raise ObjectiveError(
            f"{len(other)} of the {len(common)} prompts that both were asked have another text in {a.name} than in "
            f"{b.name} (key {keys}); score both on one file"
        )
    if a.score.prompts_sha256 == b.score.prompts_sha256:
        return
    for stored in (a, b):
        if any(key not in stored.texts for key in common):
            raise ObjectiveError(
                f"{stored.name} does not say which texts its prompts had (there is no {SAMPLES}), so that nobody knows "
                f"whether they are the same; score it again with `nightshift score`"
            )


def unlike(a: Stored, b: Stored) -> dict[str, tuple[object, object]]:
    """The settings that both know and that differ: name -> (of a, of b)."""
    names = [name for name in SETTINGS if name in a.settings and name in b.settings]
    return {name: (a.settings[name], b.settings[name]) for name in names if a.settings[name] != b.settings[name]}
