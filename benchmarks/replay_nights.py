"""Nights of the real loop on a replayed world: real storage, a clock that jumps, and power cuts at random instants.

Every start of the service is a process of its own, forked. A power cut ends it at once (os._exit): half of them at an
instant of its clock, the others at one of the next writes after that, when a statement is about to be executed, a
transaction about to be committed, or a file about to be replaced. Then what events.jsonl had not yet synced is torn at
a random byte, and the next start is another boot of the machine, whose monotonic clock begins anew.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  once here, and not in every start
from sqlalchemy import Engine, event

sys.path.insert(0, str(Path(__file__).parent))

from replay_attempt import World, newest
from replay_loop import ReplayClock, ReplayedWorker

from search import config, finals_record, loop, plan_trials
from search.clock import Deadline
from search.config import StudyConfig
from search.errors import SearchError
from search.finals import Race
from search.view import StudyView
from storage import db, trials
from storage.ledger import Attempt, Ledger
from storage.records import TrialRecord
from train.rundir import Json, RunDir, read_json

FIRST_NIGHT = 1_800_000_000.0  # a reading of the wall clock, at a whole minute
DAY_S = 86_400.0
ENDLESS_S = 1e9
CUT = 33  # exit code of a process that lost its power
WRITES = 60  # among so many after its instant is the one at which a cut may come
AT_ONCE = 0.2  # of the cuts come while the service starts
SAMPLED = 50  # recipes that stand for the space where it is planned what trials cost: fewer, to save time
SEEN_EVERY_S = 60.0  # between two looks of an observer at the study


@dataclass(frozen=True)
class Plan:
    """Nights of so many seconds, whole minutes, with one budget for all. `cuts`: power cuts a night, on average."""

    folder: Path
    study: Path
    world: World
    nights: int
    night_s: float
    budget_s: float
    cuts: float = 0.0
    seed: int = 0
    trials: int | None = None  # None: as many as the study file says


@dataclass
class Start:
    """One start of the service, as it was told while it went."""

    night: int
    began: float  # seconds of the night
    ended: float = 0.0
    ending: str = ""  # why it ended; empty: the power was cut
    forecast: tuple[int, float, bool] | None = None  # the first: trials, their standard deviation, whether for tonight
    before: int = 0  # trials that had ended when it was told
    opened: dict[int, float] = field(default_factory=dict)  # attempt -> monotonic clock
    cut_at: float = math.nan  # of the monotonic clock


@dataclass(frozen=True)
class Story:
    """What came of some nights."""

    plan: Plan
    starts: tuple[Start, ...]
    kept: tuple[dict[int, Json], ...]  # after each start: the results of trials that had ended
    ended: tuple[int, ...]  # trials at the end of each night
    record: Record
    race: Race | None  # the final race, as it stood then
    closed: Record  # after a last start, which had but to end what was begun
    last_race: Race | None


@dataclass(frozen=True)
class Record:
    """What a study's database holds."""

    trials: tuple[TrialRecord, ...]
    attempts: tuple[Attempt, ...]
    spent_s: float

    @classmethod
    def read(cls, folder: Path, study: str) -> Record:
        """The one in that folder."""
        storage, engine = trials.open_read_only(folder / "study.db"), db.read_only_engine(folder / "study.db")
        try:
            ledger = Ledger(engine)
            return cls(tuple(trials.read_records(storage, study)), tuple(ledger.attempts()), ledger.spent_s())
        finally:
            storage.engine.dispose()
            engine.dispose()


def play(plan: Plan) -> Story:
    """Spend the nights, one start after another."""
    draw = random.Random(plan.seed)
    name = config.load(plan.study).study.name
    starts: list[Start] = []
    kept: list[dict[int, Json]] = []
    ended = []
    for night in range(plan.nights):
        at = 0.0
        while at < plan.night_s - 1.0:
            starts.append(_start(plan, night, at, *_cut(plan, draw)))
            kept.append(finished(plan.folder))
            if starts[-1].ending:
                break
            tear(plan.folder, draw)
            at = starts[-1].ended + draw.uniform(0.0, 0.2 * plan.night_s)
        ended.append(len(kept[-1]))
    record = Record.read(plan.folder, name)
    race = finals_record.kept(plan.folder, record.trials)
    begun = sum(trial.state != "waiting" for trial in record.trials)
    _start(replace(plan, budget_s=ENDLESS_S, trials=begun), plan.nights, 0.0, math.inf, 0)
    kept.append(finished(plan.folder))
    closed = Record.read(plan.folder, name)
    last_race = finals_record.kept(plan.folder, closed.trials)
    return Story(plan, tuple(starts), tuple(kept), tuple(ended), record, race, closed, last_race)


def _cut(plan: Plan, draw: random.Random) -> tuple[float, int]:
    """Seconds after a start at which the power goes, and at which write from then on; 0: at none, but at once."""
    if not plan.cuts:
        return math.inf, 0
    after = 0.0 if draw.random() < AT_ONCE else draw.expovariate(plan.cuts / plan.night_s)
    return after, draw.choice((0, draw.randint(1, WRITES)))


def finished(folder: Path) -> dict[int, Json]:
    """The results of the trials that ended, whoever was told."""
    found = {int(path.name): read_json(RunDir(path).result) for path in (folder / "runs").glob("[0-9]*")}
    return {number: result for number, result in found.items() if result and result["outcome"] != "stopped"}


def tear(folder: Path, draw: random.Random) -> None:
    """Take from the events of runs that go on what was not synced: up to a random byte."""
    over = finished(folder)
    for path in (folder / "runs").glob("[0-9]*"):
        run = RunDir(path)
        if int(path.name) not in over and run.events.exists():
            there = newest(run)
            os.truncate(run.events, draw.randint(there.events_bytes if there else 0, run.events.stat().st_size))


def _start(plan: Plan, night: int, at: float, cut: float, writes: int) -> Start:
    """One start of the service, in a process of its own, which says a line of JSON for all that is to be known."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(plan, night, at, cut, writes, lambda **told: _tell(writer, told))
    os.close(writer)
    with open(reader, encoding="utf-8") as lines:
        told = [json.loads(line) for line in lines]
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, CUT):
        raise RuntimeError(f"{plan.folder}: the start in night {night} ended with {code}: {told[-1:]}")
    start = Start(night, at)
    for line in told:
        start.opened |= {line["attempt"]: line["opened"]} if "attempt" in line else {}
        if "forecast" in line:
            start.forecast, start.before = tuple(line["forecast"]), line["before"]
        start.ending = line.get("ending", start.ending)
        start.cut_at, start.ended = line.get("cut", start.cut_at), line.get("at", start.ended)
    return start


def _tell(pipe: int, told: Json) -> None:
    os.write(pipe, (json.dumps(told) + "\n").encode())


def _live(plan: Plan, night: int, at: float, cut: float, writes: int, tell: Callable[..., None]) -> None:
    """The whole life of a service's process."""
    code = 1
    try:
        began = FIRST_NIGHT + night * DAY_S
        clock = ReplayClock(wall=began + at, awake=30.0)
        power = Power(clock, clock.awake + cut, writes, lambda: tell(cut=clock.awake, at=clock.wall - began))
        clock.passed = power.passed
        power.watch_writes()
        until = datetime.fromtimestamp(began + plan.night_s).strftime("%H:%M")
        loop.SHOW_EVERY_S = SEEN_EVERY_S
        plan_trials.sampled = partial(plan_trials.sampled, count=SAMPLED)
        closing = night == plan.nights
        ending = loop.run(
            _config(plan),
            plan.folder,
            deadline=None if closing else Deadline.after_now(until, clock),
            until=None if closing else until,
            budget_s=plan.budget_s,
            observe=Observer(tell),
            clock=clock,
            start=lambda runs, log, *, threads, device: Told(runs, uuid.uuid4().hex, clock, plan.world, tell),
        )
        power.on = False
        tell(ending=ending, at=clock.wall - began)
        code = 0
    except SearchError as error:  # as for a night that is too short for a first trial
        tell(ending=str(error), at=clock.wall - began)
        code = 0
    except BaseException as error:
        tell(error="".join(traceback.format_exception(error))[-3000:])
    finally:
        os._exit(code)


def _config(plan: Plan) -> StudyConfig:
    study = config.load(plan.study)
    wanted = study.study.trials if plan.trials is None else plan.trials
    return study.model_copy(update={"study": study.study.model_copy(update={"trials": wanted})})


class Told(ReplayedWorker):
    """A worker that tells when its attempts were opened."""

    def __init__(self, runs: Path, token: str, clock: ReplayClock, world: World, tell: Callable[..., None]) -> None:
        super().__init__(runs, token, clock, world)
        self.tell = tell

    def assign(self, run: str, attempt: int) -> None:
        self.tell(attempt=attempt, opened=self.clock.monotonic())
        super().assign(run, attempt)


class Observer:
    """Tells the first forecast that it sees."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell, self._told = tell, False

    def __call__(self, study: StudyView) -> None:
        if study.forecast and not self._told:
            self._told = True
            count = study.forecast.count
            before = sum(trial.state in ("complete", "pruned", "failed") for trial in study.trials)
            self._tell(forecast=(count.trials, count.sd, study.forecast.tonight), before=before)


@dataclass
class Power:
    """Ends this process at the instant `cut_at` of its clock, or after so many more `writes`."""

    clock: ReplayClock
    cut_at: float
    writes: int
    last_words: Callable[[], None]
    on: bool = True

    def passed(self, awake: float) -> None:
        """The clock has moved on."""
        if awake >= self.cut_at and not self.writes:
            self._cut()

    def wrote(self, *_: object, **__: object) -> None:
        """Something is about to be written."""
        if self.clock.awake >= self.cut_at and self.writes:
            self.writes -= 1
            if not self.writes:
                self._cut()

    def watch_writes(self) -> None:
        """Have every commit, row and replaced file of this process told to `wrote`."""
        replace: Callable[..., None] = os.replace

        def watched(*arguments: Any, **values: Any) -> None:
            self.wrote()
            replace(*arguments, **values)

        os.replace = watched
        event.listen(Engine, "commit", self.wrote)
        event.listen(Engine, "before_cursor_execute", self.wrote)

    def _cut(self) -> None:
        if self.on:
            self.last_words()
            os._exit(CUT)
