"""The best trial -> final_run.py: a template that never changes, and one JSON literal that holds everything else.

What comes out of a database, a data set or a model is data in that literal and cannot become code: the literal is JSON
in ASCII with every quote inside a string escaped, and the file's syntax tree is compared with the template's before it
is written. From the trial's recipe the freeze changes `examples`, the horizon, and the learning rates, which a longer
horizon wants lower; nothing else.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from objectives.score import Measure, ObjectiveError
from search import standing
from search.config import ELSEWHERE, StudyConfig
from search.errors import FreezeDiffers, NothingToFreeze, SearchError
from search.horizon import Correction, Horizon, corrections, examples_per_second, load_seconds, stretch
from search.sections import AUTO
from storage import db, trials
from storage.records import TrialRecord
from train.planning.plan import inspect_sources
from train.recipe import Recipe, digest_of
from train.rundir import Json, RunDir, read_json, write_atomic

FILE = "final_run.py"
TEMPLATE = Path(__file__).with_name("templates") / FILE
OPEN, CLOSE = 'FROZEN = json.loads(r"""', '""")'
LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "lm_eval",
    "nightshift",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def freeze(config: StudyConfig, folder: Path) -> Path:
    """Write the study's best trial as `folder`/final_run.py, replacing one that was frozen earlier; returns its path.

    Raises FreezeDiffers where somebody edited the one that is there; NothingToFreeze without a complete trial;
    StorageError, RecipeError or ObjectiveError where the database, the data or the prompts are not what they were.
    """
    path = folder / FILE
    if path.exists() and _edited(path):
        away = shlex.join(["mv", str(path), str(path.with_name("final_run.edited.py"))])
        raise FreezeDiffers(f"{path} was edited, or is another version's, and is not replaced; move it away: {away}")
    write_atomic(path, render(compose(config, folder)))
    return path


def _edited(path: Path) -> bool:
    try:
        held = constant(path)
    except FreezeDiffers:
        return True
    return bool(held.get("sha256") != digest_of(held))


def check(config: StudyConfig, folder: Path) -> None:
    """Raise FreezeDiffers, naming every difference, unless `folder`/final_run.py is what `freeze` would write now.

    The versions of the libraries are left out: the file itself compares those when it is run. So is how many trials
    there were: more of them change nothing as long as the best one is the same.
    """
    path = folder / FILE
    if not path.exists():
        raise FreezeDiffers(f"{path} is not there; {_command(path)} writes it")
    written, now = constant(path), compose(config, folder)
    for value in (written, now):
        for key in ("versions", "sha256"):
            value.pop(key, None)
        value.get("origin", {}).pop("trials", None)
    if differences := list(_differences(written, now)):
        lines = "\n".join(f"  {line}" for line in differences)
        raise FreezeDiffers(f"{path} is not what the study says now; {_command(path)} writes it anew:\n{lines}")


def render(frozen: Json) -> str:
    """The text of final_run.py with `frozen` as its one constant. Raises ValueError for NaN and infinity."""
    head, tail = _around(TEMPLATE.read_text(encoding="utf-8"))
    text = f"{head}{OPEN}{literal(frozen)}{CLOSE}{tail}"
    assert text.isascii()
    code, value = _dissect(text)
    assert (code, json.loads(value)) == (_template_code(), frozen)
    return text


def literal(value: Json) -> str:
    """JSON that can stand between triple quotes in a raw string: ASCII, and with no quote inside of its strings."""
    text = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False)
    text = re.sub(r"\\(.)", lambda escape: r"\u0022" if escape[1] == '"' else escape[0], text)
    return text.replace("'", r"\u0027")


def constant(path: Path) -> Json:
    """What is frozen in the final_run.py at `path`. Raises FreezeDiffers where its code is not the template's."""
    try:
        code, value = _dissect(path.read_bytes())
        frozen = json.loads(value)
    except (SyntaxError, ValueError) as error:
        raise FreezeDiffers(f"{path} is no final_run.py of Nightshift ({error}); {_command(path)} writes one") from None
    if code != _template_code():
        raise FreezeDiffers(f"the code of {path} was edited, or is another version's; {_command(path)} writes it anew")
    assert isinstance(frozen, dict), path
    return frozen


def _command(path: Path) -> str:
    return f"`{shlex.join(['nightshift', 'freeze', str(path.parent)])}`"


# The file as a syntax tree


def _around(template: str) -> tuple[str, str]:
    head, _, rest = template.partition(OPEN)
    _, _, tail = rest.partition(CLOSE)
    return head, tail


@cache
def _template_code() -> str:
    return _dissect(TEMPLATE.read_text(encoding="utf-8"))[0]


def _dissect(source: str | bytes) -> tuple[str, str]:
    """The syntax tree without docstring and constant; the constant. Raises SyntaxError, or ValueError without one."""
    tree = ast.parse(source)
    if ast.get_docstring(tree) is not None:
        del tree.body[0]  # the file at the top of the repository has words of its own
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="FROZEN")],
                value=ast.Call(
                    func=ast.Attribute(value=ast.Name(id="json"), attr="loads"),
                    args=[ast.Constant(value=str() as value) as place],
                    keywords=[],
                ),
            ):
                place.value = ""
                return ast.dump(tree), value
    raise ValueError("it has no FROZEN = json.loads(...)")


# What is frozen


@dataclass(frozen=True)
class Best:
    """The trial that is frozen, and its run's files."""

    record: TrialRecord
    run: RunDir
    recipe: Recipe
    result: Json

    @property
    def score(self) -> Measure:
        """Prompt-level strict accuracy on the search's reference set."""
        return Measure(**self.result["score"]["prompt_strict"])


def compose(config: StudyConfig, folder: Path) -> Json:
    """Everything that final_run.py holds for this study; the same for the same study."""
    records = _records(config, folder)
    best = _best(config, folder, records)
    objective = _objective(config)
    rows = {name: facts.rows for name, facts in inspect_sources(best.recipe.sources).items()}
    horizon = stretch(best.recipe, rows, config.final, examples_per_second(best.run), load_seconds(folder))
    rates = corrections(best.recipe, horizon.examples, config.final)
    changed = {"examples": horizon.examples, **{name: rate.after for name, rate in rates.items()}}
    recipe = Recipe.model_validate_json(json.dumps({**best.recipe.model_dump(mode="json"), **changed}))
    frozen = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.digest,
        "objective": objective,
        "device": config.machine.device,
        "hours": config.final.hours,
        "checkpoint_minutes": config.machine.checkpoint_minutes,
        "origin": _origin(config, folder, records, best, horizon, rates),
        "versions": versions(),
    }
    return {**frozen, "sha256": digest_of(frozen)}


def _records(config: StudyConfig, folder: Path) -> list[TrialRecord]:
    path = folder / "study.db"
    db.check(path)
    storage = trials.open_read_only(path)
    try:
        return trials.read_records(storage, config.study.name)
    except KeyError:
        return []
    finally:
        storage.engine.dispose()


def _best(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> Best:
    record = standing.incumbent(records)
    if record is None:
        states = ", ".join(f"{count} {state}" for state, count in sorted(_states(records).items())) or "it has none"
        raise NothingToFreeze(
            f"no trial of the study {config.study.name!r} is complete ({states}); go on with "
            f"`nightshift start {config.path}`"
        )
    run = RunDir(folder / "runs" / f"{record.number:03d}")
    result = read_json(run.result)
    if result is None or not result.get("score") or not run.recipe_path.exists():
        raise SearchError(
            f"{run.path}: the files of trial {record.number}, the best one, are not there any more (recipe.json and "
            "result.json); put the folder back"
        )
    return Best(record, run, run.recipe(), result)


def _states(records: Sequence[TrialRecord]) -> Counter[str]:
    return Counter("infeasible" if "infeasible" in r.user_attrs else r.state for r in records)


def _objective(config: StudyConfig) -> Json:
    path = config.objective.prompts
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ObjectiveError(f"the prompts {path} cannot be read: {error.strerror}; put the file back") from None
    return {
        "prompts": str(path),
        "prompts_sha256": digest,
        "origin": "Put back the file that [objective] in the study names.",
        "max_new_tokens": config.final.max_new_tokens,
        "batch_size": config.objective.batch_size,
    }


def versions() -> dict[str, str]:
    """The installed versions of Python and of the libraries that decide the weights and the scores."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# Where each value came from


def _origin(
    config: StudyConfig,
    folder: Path,
    records: Sequence[TrialRecord],
    best: Best,
    horizon: Horizon,
    rates: Mapping[str, Correction],
) -> dict[str, Any]:
    values = origins(config, best.record)
    values |= {name: f"{values[name]}; then corrected for the horizon" for name in rates}
    base = read_json(RunDir(folder / "runs" / "base").result)
    return {
        "how": "searched",
        "study": config.study.name,
        "trial": best.record.number,
        "prior": best.record.user_attrs.get("prior"),
        "recipe_sha256": best.recipe.digest,
        "score": best.score.model_dump(),
        "base_score": base["score"]["prompt_strict"] if base and base.get("score") else None,
        "trials": dict(sorted(_states(records).items())),
        "values": values,
        "changes": _changes(config, best.recipe, horizon, rates),
    }


def _changes(config: StudyConfig, recipe: Recipe, horizon: Horizon, rates: Mapping[str, Correction]) -> Json:
    """What is not as it was in the trial: from what to what, and why."""
    changes: Json = {"examples": {"from": recipe.examples, "to": horizon.examples, "why": horizon.why}}
    changes |= {name: {"from": rate.before, "to": rate.after, "why": rate.why} for name, rate in rates.items()}
    before, after = config.objective.max_new_tokens, config.final.max_new_tokens
    if before != after:
        why = "set in [final]: nobody waits for the last evaluation, and longer answers need not be cut"
        changes["max_new_tokens"] = {"from": before, "to": after, "why": why}
    return changes


def origins(config: StudyConfig, record: TrialRecord) -> dict[str, str]:
    """For each field of the frozen recipe, and for each searched weight, who gave it its value."""
    sections = {"base": "[base]", "sources": "[[data]]", "probe": "[probe]", "seed": "[study]", "threads": "[machine]"}
    assert sections.keys() == set(ELSEWHERE)
    values = {name: f"set in {sections[name]}" if name in sections else "default" for name in Recipe.model_fields}
    values |= dict.fromkeys(config.recipe, "set in [recipe]")
    if config.recipe.get("gradient_checkpointing") == AUTO:
        why = "chosen by the plan: the most un-checkpointed layers that fitted the card"
        values |= {"gradient_checkpointing": why, "uncheckpointed_layers": why}
    named = record.user_attrs.get("prior")
    prior = next((prior for prior in config.prior if prior.name == named), None)
    for name in record.params:
        values[name] = f"searched, {config.space[name]}" if name in config.space else "searched"
        if prior and name in prior.params:
            values[name] += f"; this one from the prior {prior.name}"
    return {**values, "examples": "set by the freeze"}


# Differences


def _differences(written: Any, now: Any, name: str = "") -> Iterator[str]:
    """One line for each value that is not the same, by its dotted name."""
    if isinstance(written, dict) and isinstance(now, dict):
        for key in sorted(written.keys() | now.keys()):
            yield from _differences(written.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(written, list) and isinstance(now, list) and len(written) == len(now):
        for index, (left, right) in enumerate(zip(written, now, strict=True)):
            yield from _differences(left, right, f"{name}[{index}]")
    elif written != now:
        yield f"{name}: {_short(written)} in {FILE}, {_short(now)} in the study"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
