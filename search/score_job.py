"""Starts the process that scores or measures (search.scoring), follows it, and reads what it wrote. Imports no torch.

A folder with a score holds settings.json (what was asked, from the first start on), answers-HALF.jsonl (every answer,
as it was made), score.json (from the end on), samples.jsonl where asked, and log.txt (or vllm.txt), what libraries
said.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from objectives.score import Score
from search import score_file, score_settings
from search.errors import SearchError, WorkerFailed
from search.launcher import environment, kill_group
from search.score_file import SAMPLES, SETTINGS
from search.score_model import ScoredModel
from search.score_settings import Machine, Part, Prompts
from train.environment import versions
from train.rundir import Json, parse_event, read_json, write_json

LOG = "log.txt"
PROMPT_TOKENS = (32, 256, 1024)
NEW_TOKENS = 128
WARMUPS = 3

Watch = Callable[[Json], None]


def score(
    model: ScoredModel,
    machine: Machine,
    prompts: Prompts,
    part: Part,
    settings: Json,
    out: Path,
    *,
    save_samples: bool,
    watch: Watch,
) -> Json:
    """The record of score.json in `out`: the one that is there if it has all that is asked, else made now.

    Raises SearchError where `out` holds a score with other settings, or another process is at work in it.
    """
    if blocked := next((place for place in (out, *out.parents) if place.is_file()), None):
        raise SearchError(f"--out {out}: {blocked} is a file; give a folder, which is made where there is none")
    score_file.check_settings(out, settings)
    stored = stored_score(out, part)
    if stored is not None and (not save_samples or _has_samples(out, stored, part)):
        return stored
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SearchError(f"{out} cannot be made ({error.strerror}); give another folder with --out") from None
    with _alone(out):
        write_json(out / SETTINGS, settings)
        run(score_job(model, prompts, settings, out, save_samples=save_samples), machine, out, watch)
    made = stored_score(out, part)
    assert made is not None, out
    return made


def score_job(model: ScoredModel, prompts: Prompts, settings: Json, out: Path, *, save_samples: bool) -> Json:
    """What the process is told, but for what `run` adds."""
    earlier = score_file.held(out) or {"texts": {}}
    record: Json = {
        "model": model.name,
        "base": model.base.model,
        "revision": model.base.revision,
        "adapter": str(model.adapter) if model.adapter else None,
        "recipe_sha256": model.recipe.digest if model.recipe else None,
        "prompts": str(prompts.path.absolute()),
        "texts": {**earlier["texts"], **score_settings.texts(prompts)},
        "asked": settings,
    }
    return {
        "kind": "score",
        "model": loadable(model),
        "prompts": record["prompts"],
        "halves": list(prompts.halves),
        "settings": settings,
        "record": record,
        "save_samples": save_samples,
        "out": str(out),
        "lower": f"lower --batch-size, which is {settings['batch_size']}, or --max-new-tokens",
    }


def stored_score(out: Path, part: Part) -> Json | None:
    """The record in `out`, if it has the score of that part. Raises SearchError where its file is damaged."""
    record = score_file.held(out)
    return record if record and part in record["scores"] else None


def _has_samples(out: Path, stored: Json, part: Part) -> bool:
    """Whether the answer to each prompt of that part was saved."""
    try:
        saved = {json.loads(line)["key"] for line in (out / SAMPLES).read_text(encoding="utf-8").splitlines()}
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return saved >= {verdict["key"] for verdict in stored["scores"][part]["verdicts"]}


def loadable(model: ScoredModel) -> Json:
    """A model as the process is told of it."""
    return {
        "base": model.base.model_dump(mode="json"),
        "adapter": str(model.adapter.absolute()) if model.adapter else None,
    }


def latency(models: Sequence[ScoredModel], machine: Machine, runs: int, watch: Watch) -> Json:
    """Measure one model (an adapter: beside its base model), or two against each other, by turns."""
    with tempfile.TemporaryDirectory(prefix="nightshift-latency-") as folder:
        result = Path(folder, "latency.json")
        run(latency_job(models, machine, runs, result), machine, Path(folder), watch)
        made = read_json(result)
    assert made is not None
    return made


def latency_job(models: Sequence[ScoredModel], machine: Machine, runs: int, result: Path) -> Json:
    """What the process is told, but for what `run` adds."""
    loads, arms = arms_of(models)
    facts = {"threads": machine.threads, "weights": machine.facts["weights"], "warmups": WARMUPS}
    return {
        "kind": "latency",
        "loads": [loadable(model) for model in loads],
        "arms": arms,
        "lengths": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "runs": runs,
        "warmups": WARMUPS,
        "result": str(result),
        "record": {**facts, "versions": versions()},
        "lower": "measure one model alone, or with --weights nf4",
    }


def arms_of(models: Sequence[ScoredModel]) -> tuple[list[ScoredModel], list[Json]]:
    """What has to be loaded, and the arms that are measured: {"name", "load" (a place in the first), "tuned"}.

    A base model and an adapter on it are one load, the adapter switched off for the base.
    """
    first = models[0]
    if len(models) == 1 and first.adapter is None:
        return [first], [_arm(first.name, 0, tuned=False)]
    if len(models) == 1:
        return [first], [_arm(first.base.model, 0, tuned=False), _arm(first.name, 0, tuned=True)]
    second = models[1]
    tuned = [model for model in models if model.adapter]
    if first.facts.sha256 == second.facts.sha256 and len(tuned) == 1:
        return tuned, [_arm(model.name, 0, tuned=model.adapter is not None) for model in models]
    return [first, second], [_arm(m.name, place, tuned=m.adapter is not None) for place, m in enumerate(models)]


def _arm(name: str, load: int, *, tuned: bool) -> Json:
    return {"name": name, "load": load, "tuned": tuned}


# The process


def known(machine: Machine) -> Json:
    """What `run` adds to a job."""
    device = {"device": machine.device, "threads": machine.threads, "quantize": machine.quantize}
    return {"parent": os.getpid(), **device, "vllm_python": machine.engine.python}


def run(job: Json, machine: Machine, folder: Path, watch: Watch) -> None:
    """Run the job to its end; `watch` sees each event. Its file and its log lie in `folder`.

    Raises SearchError with what the process says has to be put right, or WorkerFailed where it died. Whatever ends
    this function ends the process.
    """
    path = folder / "job.json"
    write_json(path, {**job, **known(machine)})
    error = ""
    try:
        with _terminable(), open(folder / LOG, "wb") as log, _started(path, machine, log.fileno()) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = parse_event(line) or {}
                if event.get("event") == "error":
                    error = event["message"]
                elif event:
                    watch(event)
            code = process.wait()
    finally:
        path.unlink()
    if error:
        raise SearchError(error)
    if code:
        raise WorkerFailed(_died(code, folder / LOG))


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, with a word."""

    number = signal.SIGTERM


@contextmanager
def _terminable() -> Iterator[None]:
    def end(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _started(path: Path, machine: Machine, log: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "search.scoring", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        env={**os.environ, **environment(machine.threads)},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                kill_group(process.pid)


def _died(code: int, log: Path) -> str:
    how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        how += ", perhaps for want of memory"
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f"; the last it said: {said[-1].strip()}" if said else ""
    return f"the process that held the model ended before it was done: {how}{last}"


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    with open(out / ".lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(f"another process is scoring into {out}; wait for it, or give another --out") from None
        yield


def scores_of(record: Json) -> dict[str, Score]:
    """The Scores of a record, by part."""
    return {part: Score.model_validate_json(json.dumps(score)) for part, score in record["scores"].items()}
