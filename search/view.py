"""What a study looks like now, for whoever shows it: progress, status, report. Reads; decides nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from objectives.score import Measure
from search import budget, finals_record, service
from search.errors import SearchError
from search.finals import Race
from search.finals_record import Pick
from search.forecast import Forecast, Scored, kept, of_study
from search.parameters import Value
from search.standing import BEHIND
from storage import records
from storage.attempts import Attempt, Work
from storage.records import Brief, TrialRecord
from train.rundir import Json, RunDir, parse_event, read_json
from train.until import next_time


@dataclass(frozen=True)
class TrialView:
    """One trial. `state` is waiting, running, interrupted, complete, pruned, infeasible or failed."""

    number: int
    state: str
    params: dict[str, Value]
    rungs: dict[float, float]  # fraction of the horizon -> bits per byte of the probe
    score: Measure | None  # prompt-level strict on the whole reference set; None where not all of it was asked
    gpu_seconds: float
    attempts: int
    reason: str = ""  # why it failed, was pruned, was asked no more, or does not fit
    prior: str = ""  # name of the hand-picked recipe, where it is one
    value: float | None = None  # what the sampler was told: the score, or an estimate of it for a trial that is behind
    asked: int = 0  # prompts
    followed: int | None = None  # of those; None where that was not written down
    behind: int | None = None  # the trial that it was behind, so that it was asked no more


@dataclass(frozen=True)
class Activity:
    """What the worker does at this moment. `phase` is load, train, probe, score or save."""

    trial: int | None  # None: scoring the base model
    phase: str
    step: int
    steps: int
    loss: float | None
    resumed: int | None = None  # the step that the running attempt went on from, as long as that was not long ago
    left_s: float | None = None  # forecast: seconds of training to go, by the run's own steps
    race: bool = False  # the trial answers fresh prompts, in the final race


@dataclass(frozen=True)
class StudyView:
    """A study at one moment."""

    name: str
    folder: Path
    trials: tuple[TrialView, ...]
    trials_wanted: int
    base: Measure | None
    spent_s: float
    budget_s: float
    until: str | None  # local time of day at which the service stops, HH:MM
    left_s: float | None  # forecast: seconds until the last trial ends; None before the first one has
    activity: Activity | None
    service_pid: int | None  # the process at work on it, if any
    ending: str | None  # why the last service stopped, if it did
    forecast: Forecast | None = None  # None where nothing is known yet, or nothing is to come
    race: Race | None = None  # the final race between the best trials, from its beginning on
    pick: Pick | None = None  # the trial to take, and by what

    @cached_property
    def best(self) -> TrialView | None:
        """The trial to take; None before one was asked the whole reference set, and where its score is not known in
        today's words."""
        found = self.trials[self.pick.trial] if self.pick else None
        return found if found and found.score else None


ENDED = ("complete", "pruned", "failed")
BEGUN = ("running", "interrupted")
BRIEFLY = ("score", "infeasible", "reason", BEHIND)  # user attributes that are read of every trial
NONE = Work()
TAIL_BYTES = 4096  # holds the last few events


def ended(records: Sequence[TrialRecord]) -> int:
    """How many trials count as done: those that ended and were more than a suggestion that does not fit."""
    return sum(record.finished and "infeasible" not in record.user_attrs for record in records)


def read(folder: Path, rows: int | None = None) -> StudyView:
    """The study in `folder`, read through connections that cannot write.

    With `rows`, trials other than that many newest ones and the best one come without parameters and rungs: of a study
    of thousands, the others' take seconds to read. Raises SearchError where there is no study, StorageError where its
    database cannot be read.
    """
    facts = service.read(folder)
    if facts is None:
        raise SearchError(f"{folder}: there is no study here. Begin one with `nightshift start STUDY.toml`.")
    path = folder / "study.db"
    if not path.exists():
        return build(folder, facts, [], {}, [], 0.0)
    found = records.read(path, None if rows is None else Brief(BRIEFLY, partial(_shown, folder, rows)))
    return build(folder, facts, found.trials, found.work, found.open_attempts, found.spent_s)


def _shown(folder: Path, rows: int, of: Sequence[TrialRecord]) -> list[int]:
    """The numbers of the newest `rows` trials and the best one."""
    pick = finals_record.pick(folder, of)
    return [record.number for record in of[-rows:]] + ([pick.trial] if pick else [])


def build(
    folder: Path,
    facts: service.Facts,
    records: Sequence[TrialRecord],
    work: Mapping[int | None, Work],
    open_attempts: Sequence[Attempt],
    spent_s: float,
    night_s: float | None = None,
) -> StudyView:
    """The view of records that were read already. `night_s`: seconds until the deadline, where the service says so;
    else they follow from its time of day and this machine's clock."""
    alive = facts.is_alive
    running = open_attempts[-1] if alive and open_attempts else None
    trials = tuple(_trial(record, work.get(record.number, NONE), running) for record in records)
    finished, unfinished = ([t.gpu_seconds for t in trials if t.state in states] for states in (ENDED, BEGUN))
    expected, race = kept(folder), finals_record.kept(folder, records)
    unspent_s = max(0.0, facts.budget_s - spent_s)
    trials_left = max(0, facts.trials_wanted - len(finished))
    race_s = expected.kept_s * (race.to_come if race else 1.0)
    return StudyView(
        name=folder.name,
        folder=folder,
        trials=trials,
        trials_wanted=facts.trials_wanted,
        base=base_score(folder),
        spent_s=spent_s,
        budget_s=facts.budget_s,
        until=facts.until,
        left_s=budget.left_s(
            finished,
            trials_left,
            unspent_s,
            sum(unfinished),
            race_s + (expected.load_s if trials_left or race_s else 0.0),
        ),
        activity=_activity(folder, running) if running else None,
        service_pid=facts.holder.pid if alive else None,
        ending=facts.ending or None,
        forecast=of_study(
            finished,
            expected.trial,
            [Scored(t.score.value, t.score.standard_error) for t in trials if t.score and t.state == "complete"],
            wanted=trials_left,
            unspent_s=max(0.0, unspent_s - expected.kept_s),
            deadline_s=_deadline_s(facts.until) if alive and night_s is None else night_s,
            running_s=sum(unfinished),
            load_s=expected.load_s,
        ),
        race=race,
        pick=finals_record.pick(folder, records),
    )


def _deadline_s(until: str | None) -> float | None:
    """Seconds until the local clock shows that time of day."""
    if until is None:
        return None
    now = time.time()
    return next_time(until, now) - now


def _trial(record: TrialRecord, work: Work, running: Attempt | None) -> TrialView:
    attributes = record.user_attrs
    return TrialView(
        number=record.number,
        state=_state(record, running),
        params={key: value for key, value in record.params.items() if value is not None},
        rungs={step / 100: -value for step, value in record.rungs.items()},
        score=_measure(attributes.get("score")),
        gpu_seconds=work.charged_s,
        attempts=work.attempts,
        reason=str(attributes.get("infeasible") or attributes.get("reason") or ""),
        prior=str(attributes.get("prior", "")),
        value=record.value,
        asked=attributes.get("prompts_asked", 0),
        followed=attributes.get("prompts_followed"),
        behind=attributes.get(BEHIND),
    )


def _state(record: TrialRecord, running: Attempt | None) -> str:
    if "infeasible" in record.user_attrs:
        return "infeasible"
    if record.state != "running":
        return record.state
    return "running" if running and running.trial == record.number else "interrupted"


def base_score(folder: Path) -> Measure | None:
    """What the base model of the study in `folder` scored; None where that is not known, or not in today's words."""
    try:
        result = read_json(RunDir(folder / "runs" / "base").result) or {}
        return _measure(result["score"]["prompt_strict"])
    except (ValueError, KeyError, TypeError):
        return None


def _measure(held: object) -> Measure | None:
    """A measure as it was written down; None for what an earlier version wrote otherwise."""
    try:
        return Measure.model_validate(held)
    except ValueError:
        return None


def _activity(folder: Path, running: Attempt) -> Activity:
    """What the last events of the running attempt say."""
    run = RunDir(folder / "runs" / running.run)
    phase, step, loss, resumed, left_s = "load", 0, None, None, None
    for event in _last_events(run.events):
        if event["event"] == "data":  # with which an attempt begins
            resumed = None
        elif event["event"] == "resumed":
            phase, step, resumed = "train", event["step"], event["step"]
        elif event["event"] == "phase":
            phase = event["phase"]
        elif event["event"] == "step":
            phase, step, loss, left_s = "train", event["step"], event["loss"], event.get("left_s")
        elif event["event"] == "rung":
            phase, step = "probe", event["step"]
    if (finalist := finals_record.trial_of(running.run)) is not None:
        return Activity(finalist, phase, 0, 0, None, race=True)
    steps = run.recipe().steps if running.trial is not None and run.recipe_path.exists() else 0
    return Activity(running.trial, phase, step, steps, loss, resumed, left_s)


def _last_events(path: Path) -> Sequence[Json]:
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        lines = file.read().split(b"\n")[1 if file.tell() > TAIL_BYTES else 0 : -1]
    return [event for line in lines if (event := parse_event(line)) is not None]
