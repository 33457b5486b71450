"""The service: ask, plan, launch, watch, tell, settle, until the trials, the budget or the night are over. The final
race between the best trials comes last.

Whatever instant it is killed at, the next start goes on: open attempts are closed at what they paid, a result that
was not told is told, and the trial that was running is taken up again at its newest checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from search import (
    budget,
    faults,
    finals_record,
    forecast,
    notes,
    plan_night,
    ranking,
    service,
    space,
    split,
    standing,
    survey,
    transfer,
    view,
)
from search.affordable import Left, NothingAffordable
from search.attempt import Asked, signals
from search.budget import Ending
from search.clock import SYSTEM, Clock, Deadline, left_s
from search.config import StudyConfig
from search.cost_record import Known
from search.errors import SearchError, WorkerFailed
from search.finals_night import FinalRace
from search.fit import Fit
from search.launcher import Worker, end_orphan
from search.study import OpenTrial, Study
from search.workbench import Start, Task, Workbench
from storage import db, trials
from storage.ledger import Ledger
from train.planning import plan
from train.rundir import Json, RunDir, read_json, write_atomic

SHOW_EVERY_S = 0.5
Observe = Callable[[view.StudyView], None]
Say = Callable[[str], None]


def run(
    config: StudyConfig,
    folder: Path,
    *,
    deadline: Deadline | float | None,
    until: str | None,
    budget_s: float,
    observe: Observe,
    say: Say = lambda _: None,
    asked: Asked | None = None,
    clock: Clock = SYSTEM,
    earlier: Path | None = None,
    start: Start = Worker.start,
) -> str:
    """Work on the study in `folder` until it ends; returns why, in one sentence.

    `deadline` is the night's, or a reading of the wall clock; `budget_s` the GPU-seconds that the study may spend in
    all its nights. `say` is told, a line at a time, what the view does not show. `asked` learns by which signal it was
    asked to stop, if it was. `earlier` is the folder of a study whose best recipes this one is to begin with. `start`
    starts a worker.
    Raises SearchError, RecipeError, ObjectiveError or StorageError for what a user can cause, before anything is
    written where the configuration is at fault.
    """
    found, asked = survey.survey(config), asked or Asked()
    plan_night.refuse(config, found, folder, budget_s, left_s(deadline, clock))
    given = transfer.read(earlier, folder, config) if earlier else None
    with service.claim(folder) as claim, signals(asked), db.storage_errors(folder / "study.db"):
        runs = folder / "runs"
        runs.mkdir(exist_ok=True)
        end_orphan(runs)
        engine = db.open_database(folder / "study.db")
        ledger = Ledger(engine)
        for attempt in ledger.open_attempts():
            ledger.abandon(attempt.id, "the service ended without closing it")
        base_run = runs / "base"
        storage = trials.open_storage(folder / "study.db")
        taken = transfer.settled(folder, given, config)
        priors = taken.priors if taken else {}
        study = Study.open(storage, config, found, lambda: shutil.rmtree(base_run, ignore_errors=True), priors)
        write_atomic(folder / "study.toml", config.portable_text)  # not before the study has taken it
        split.keep(folder, found.search_half)  # now that it is the study's own
        claim.announce(trials_wanted=config.study.trials, budget_s=budget_s, until=until)
        if given:
            say(str(taken))
        night = Night(config, folder, found, study, ledger, budget_s, deadline, observe, say, asked, clock, start)
        try:
            claim.ending = night.work()
        except SearchError as error:
            claim.ending = f"it failed: {str(error).splitlines()[0]}"
            raise
        finally:
            night.close()
            engine.dispose()
        db.backup(folder / "study.db")
    observe(view.read(folder))
    return claim.ending


@dataclass
class Night:
    """One stretch of work of one service on one study."""

    config: StudyConfig
    folder: Path
    survey: survey.Survey
    study: Study
    ledger: Ledger
    budget_s: float
    deadline: Deadline | float | None
    observe: Observe
    say: Say
    asked: Asked
    clock: Clock
    start: Start = Worker.start
    shown_at: float = field(default=-1e9)
    seen: Known = field(default_factory=dict)
    kept_s: float = 0.0  # of the budget, for the final race

    def __post_init__(self) -> None:
        self.known = {record.number for record in self.study.records() if record.finished}  # before this night
        self.fit = Fit(self.config, self.survey, self.study)
        self.bench = Workbench(
            config=self.config,
            folder=self.folder,
            survey=self.survey,
            study=self.study,
            ledger=self.ledger,
            deadline=self.deadline,
            asked=self.asked,
            clock=self.clock,
            start=self.start,
            show=self.show,
            say=self.say,
        )

    def work(self) -> str:
        """Score the base model once, then one trial after another, then let the best ones race; returns why it
        ended."""
        if standing.expected(self.folder, self.study.records()) is None:  # as the night before has left it
            self._rank()
        self._expect()
        ending = self._base()
        while not ending:
            ending = self._over() or self._trial()
        return self._race(ending.why) if ending.settled else ending.why

    def close(self) -> None:
        """End the worker."""
        self.bench.close()

    def _over(self) -> Ending | None:
        """Why no trial is to be begun or to go on."""
        ended = view.ended(self.study.records())
        if ended >= self.config.study.trials:
            return Ending(f"all {self.config.study.trials} trials are done", settled=True)
        return self._stopped(self.kept_s)

    def _stopped(self, kept_s: float = 0.0) -> Ending | None:
        """Why nothing at all is."""
        if self.asked.times:
            return Ending("it was asked to stop")
        return budget.may_start(self.budget_s, self.ledger.spent_s(), self._deadline_s(), kept_s)

    def _base(self) -> Ending | None:
        run = RunDir(self.folder / "runs" / "base")
        if before := _ended(run):
            if before["outcome"] == "completed":
                return None
            run.result.unlink()  # it failed, and the user has had time to mend why
        if ending := self._over():
            return ending
        run.create(space.recipe(self.config, {}, self.survey))
        task = Task(run, "base", self.fit.plan(run.recipe()), self.budget_s, self._over, compared=self._compared(0))
        result, ending = self.bench.until_ended(task)
        if result and result["outcome"] == "failed":
            raise WorkerFailed(f"{run.path}: scoring the base model failed: {result['reason']}\n{self._log_hint()}")
        return ending

    def _trial(self) -> Ending | None:
        """Work on the next trial until it ended; returns why the night is over, if it is."""
        limit = self.fit.limit_bytes()
        load, runs = self.bench.worker is None, self.folder / "runs"
        purse = plan_night.purse(self.config, self.survey, runs, self.seen, self._left(), load=load)
        try:
            trial = self.study.next_trial(lambda params: self.fit.fits(params, limit), purse.excess)
        except NothingAffordable:
            return Ending(purse.ending(), settled=True)
        run = RunDir(self.folder / "runs" / f"{trial.number:03d}")
        if not run.recipe_path.exists():
            run.create(space.recipe(self.config, trial.params, self.survey))
        recipe = run.recipe()
        planned = self.fit.plan(recipe)
        if misfit := self.fit.misfit(trial, recipe, planned):
            self.study.set_infeasible(trial, misfit)
            why = faults.too_many_misfits(self.study.records())
            return Ending(why) if why else None
        result = _ended(run)
        if result is None:
            plan_night.check_disk(self.folder, planned)
            if why := purse.late(recipe):
                return Ending(why)
            limit_s = max(0.0, self.budget_s - self.kept_s)
            compared = self._compared(trial.number)
            task = Task(run, "trial", planned, limit_s, self._over, trial, compared=compared)
            result, ending = self.bench.until_ended(task)
            if result is None:
                return ending
        self._tell(trial, run, planned, result)
        self._rank()
        self._expect()
        self.show(force=True)
        if said := faults.ending(self.study.records(), self.folder / "worker.log", self.known):
            raise WorkerFailed(said)
        return None

    def _compared(self, number: int) -> Json:
        """What the job of a trial says of those before it."""
        return standing.contest(self.folder / "runs", self.study.records(), number)

    def _race(self, why: str) -> str:
        """Let the best trials race, as far as the night lasts; returns why the night is over."""
        race = FinalRace(self.config, self.folder, self.survey, self.study, self.bench, self.fit.plan)
        ending = race.work(self.budget_s, self._stopped, self.show)
        return ending.why if ending and not ending.settled else "; ".join(filter(None, [why, race.said()]))

    def _rank(self) -> None:
        """Leave for whoever looks on which trial is expected to be best."""
        records = self.study.records()
        first = next(iter(ranking.ranked(self.config, records)), None)
        standing.keep(self.folder, first.record if first else None, records)

    def _expect(self) -> None:
        """Leave for whoever looks on what trials cost, by the plan and those that ended, until these alone tell; and
        what is kept for the final race."""
        records, runs = self.study.records(), self.folder / "runs"
        self.kept_s = finals_record.needed_s(self.config, runs, records, len(self.survey.search_half))
        costs = None
        if view.ended(records) < forecast.ENOUGH:
            costs = plan_night.costs(self.config, self.survey, self.folder, self._left())
        trial, kept_s = (costs.expected, costs.kept_s) if costs else (None, self.kept_s)
        load_s = 0.0 if self.bench.worker else finals_record.load_s(runs)
        forecast.keep(self.folder, forecast.Expected(trial, kept_s, load_s))

    def _left(self) -> Left:
        return Left(self.budget_s, self.ledger.spent_s(), self._deadline_s(), self.kept_s)

    def _tell(self, trial: OpenTrial, run: RunDir, planned: plan.Plan, result: Json) -> None:
        gpu_seconds = sum(attempt.charged_s for attempt in self.ledger.attempts(trial.number))
        attributes = notes.attributes(f"runs/{run.path.name}", planned, result, gpu_seconds)
        samples = _lines(run.samples, notes.SAMPLES)
        self.study.annotate(trial, attributes, notes.note(trial.params, trial.prior, planned, result, samples))
        if result["outcome"] == "completed":
            self.study.complete(trial, result["value"])
        elif result["outcome"] == "pruned":
            self.study.prune(trial)
        else:
            self.study.fail(trial, result["reason"])

    def _log_hint(self) -> str:
        return f"Read {self.folder / 'worker.log'}."

    def _deadline_s(self) -> float | None:
        return left_s(self.deadline, self.clock)

    def show(self, *, force: bool = False) -> None:
        """Let the observer see the study, at most every half second, and seldom where that takes long."""
        now = self.clock.monotonic()
        if force or now - self.shown_at >= SHOW_EVERY_S:
            facts, ledger = service.read(self.folder), self.ledger
            assert facts is not None
            paid = ledger.work(), ledger.open_attempts(), ledger.spent_s()
            self.observe(view.build(self.folder, facts, self.study.records(), *paid, self._deadline_s()))
            self.shown_at = self.clock.monotonic() + 9 * (self.clock.monotonic() - now)  # a tenth of the time at most


def _ended(run: RunDir) -> Json | None:
    """The result of a run that is over, whoever was told of it."""
    result = read_json(run.result)
    return result if result and result["outcome"] in ("completed", "pruned", "failed") else None


def _lines(path: Path, count: int) -> list[Json]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
