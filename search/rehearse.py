"""The rehearsal: the whole line of a night on a tiny world, step by step, each of which is done once.

The steps are what a user would type. A rehearsal that was interrupted goes on at the step where it was.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from objectives.score import Measure
from search import config, fetch, freeze, home, loop, report, service, view
from search.attempt import STOPPED, Asked, Interrupted
from search.config import StudyConfig
from search.errors import SearchError, WorkerFailed
from search.view import StudyView
from train.rundir import Json, RunDir, read_json, write_atomic

PRESET = "rehearsal"
TAIL_LINES = 15  # of what a failed step said


class Show(Protocol):
    """Where a rehearsal is seen."""

    def say(self, text: str) -> None:
        """One line about what is done now."""

    def watching(self) -> AbstractContextManager[Callable[[StudyView], None]]:
        """An observer of the study, for as long as the block lasts."""


@dataclass(frozen=True)
class Step:
    """One step of the rehearsal and what it took now; `before`: an earlier call had done it."""

    name: str
    seconds: float
    before: bool


@dataclass(frozen=True)
class Result:
    """How one model did on prompts that the search scored on, and on prompts that it never saw."""

    model: str
    search: Measure | None
    unseen: Measure | None


@dataclass(frozen=True)
class Rehearsed:
    """A finished rehearsal: what came out, what it took, and where everything is."""

    results: tuple[Result, ...]
    steps: tuple[Step, ...]
    folder: Path


@dataclass
class Steps:
    """Times the steps, and says what is going on."""

    show: Show
    done: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, *, before: bool = False) -> Iterator[bool]:
        """One step, and whether it is still to do: `before` says that an earlier call did it."""
        self.show.say(f"{len(self.done) + 1}. {name}" + (" (done before)" if before else ""))
        began = time.monotonic()
        yield not before
        self.done.append(Step(name, time.monotonic() - began, before))


def run(place: Path, seed: int, show: Show) -> Rehearsed:
    """Rehearse in the folder `place`, and return what came out.

    Raises SearchError and the errors of the rooms it calls, and KeyboardInterrupt where it was asked to stop.
    """
    steps = Steps(show)
    world, path = place / "world", place / home.STUDY_FILE
    _check_own(path, place)
    with steps.step("make the tiny world", before=_has_world(world, seed)) as todo:
        if todo:
            _make_folder(place)
            _make_world(world, seed)
    with steps.step("write the study", before=path.exists()) as todo:
        if todo:
            write_atomic(path, re.sub(r"(?m)^seed = 0\b", f"seed = {seed}", home.preset(PRESET)))
    study = config.load(path)
    folder = place / home.STUDIES / study.study.name
    with steps.step(f"search, {study.study.trials} trials", before=_is_searched(study, folder)) as todo:
        if todo:
            _search(study, folder, show)
    final = RunDir(folder / "final")
    with steps.step("freeze the best trial", before=final.recipe_path.exists()) as todo:
        if todo:
            freeze.freeze(study, folder)
        freeze.check(study, folder)
    result = final.result
    with steps.step("final run of the frozen recipe", before=result.exists()) as todo:
        if todo:
            _final_run(folder / freeze.FILE)
    with steps.step("write the report"):
        report.write(folder)
    return Rehearsed(_results(view.read(folder), read_json(result) or {}), tuple(steps.done), folder)


def _check_own(path: Path, place: Path) -> None:
    """Refuse a folder whose study.toml is somebody's own study."""
    if path.exists() and (name := config.load(path).study.name) != PRESET:
        raise SearchError(f"{path} is the study {name!r}, not a rehearsal; rehearse in another folder than {place}")


def _make_folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SearchError(f"{place} cannot be made ({error.strerror}); name another folder with --home") from None


def _has_world(world: Path, seed: int) -> bool:
    facts = read_json(world / "world.json")
    if facts is not None and (made := facts["made_by"]["seed"]) != seed:
        raise SearchError(
            f"{world.parent} holds the rehearsal of seed {made}; go on with --seed {made}, "
            "or rehearse in another folder with --home"
        )
    return facts is not None


def _make_world(world: Path, seed: int) -> None:
    command = [sys.executable, "-P", "-m", "train.rehearsal", str(world), "--seed", str(seed)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        said = "\n".join(made.stderr.splitlines()[-TAIL_LINES:])
        raise WorkerFailed(f"making the world failed with exit code {made.returncode}:\n{said}")


def _is_searched(study: StudyConfig, folder: Path) -> bool:
    if service.read(folder) is None:
        return False
    return sum(trial.state in view.ENDED for trial in view.read(folder).trials) >= study.study.trials


def _search(study: StudyConfig, folder: Path, show: Show) -> None:
    if notice := fetch.notice(study, folder):
        show.say(f"   {notice}")
    asked, budget_s = Asked(), 3600 * study.study.budget_hours
    with show.watching() as observe:
        ending = loop.run(study, folder, deadline=None, until=None, budget_s=budget_s, observe=observe, asked=asked)
    if ending == STOPPED["asked"]:
        raise Interrupted(asked)
    show.say(f"   {ending}")


def _final_run(path: Path) -> None:
    """Run the frozen file as a user would; what it says goes to the terminal. An interrupt is for it to answer."""
    process = subprocess.Popen([sys.executable, str(path)])
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:  # the terminal sent it to the final run, too, which saves and ends
            continue
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise KeyboardInterrupt
    if code:
        raise WorkerFailed(f"{path} ended with exit code {code}; what it said stands above")


def _results(study: StudyView, final: Json) -> tuple[Result, ...]:
    best = study.best
    rows = [Result("base model", _strict(final, "base_scores", "search"), _strict(final, "base_scores", "sealed"))]
    if best:
        rows.append(Result(f"best trial ({best.number})", best.score, None))
    return (*rows, Result("final run", _strict(final, "scores", "search"), _strict(final, "scores", "sealed")))


def _strict(final: Json, which: str, half: str) -> Measure | None:
    score = final.get(which, {}).get(half)
    return Measure(**score["prompt_strict"]) if score else None
