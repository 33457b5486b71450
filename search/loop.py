"""The service: ask, plan, launch, watch, tell, settle, until the trials, the budget or the night are over.

Whatever instant it is killed at, the next start goes on: open attempts are closed at what they paid, a result that
was not told is told, and the trial that was running is taken up again at its newest checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search import (
    budget,
    faults,
    forecast,
    neighbours,
    notes,
    plan_choice,
    plan_machine,
    plan_study,
    service,
    space,
    split,
    standing,
    survey,
    transfer,
    view,
)
from search.attempt import Asked, Watching, signals
from search.clock import SYSTEM, Clock, Deadline, left_s
from search.config import StudyConfig
from search.errors import WorkerFailed
from search.launcher import Worker, end_orphan
from search.parameters import Value
from search.study import OpenTrial, Study
from storage import db, trials
from storage.ledger import Attempt, BudgetExhausted, Ledger
from train.planning import plan
from train.recipe import Recipe
from train.rundir import Json, RunDir, read_json, write_atomic

SHOW_EVERY_S = 0.5
DEATHS_ALLOWED = 5  # of one trial's worker, without a new checkpoint or answer in between
MISFITS_ALLOWED = 200  # suggestions in a row that do not fit the memory
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
) -> str:
    """Work on the study in `folder` until it ends; returns why, in one sentence.

    `deadline` is the night's, or a reading of the wall clock; `budget_s` the GPU-seconds that the study may spend in
    all its nights. `say` is told, a line at a time, what the view does not show. `asked` learns by which signal it was
    asked to stop, if it was. `earlier` is the folder of a study whose best recipes this one is to begin with.
    Raises SearchError, RecipeError, ObjectiveError or StorageError for what a user can cause, before anything is
    written where the configuration is at fault.
    """
    found, asked = survey.survey(config), asked or Asked()
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
        night = Night(config, folder, found, study, ledger, budget_s, deadline, observe, say, asked, clock)
        try:
            claim.ending = night.work()
        except WorkerFailed as error:
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
    worker: Worker | None = None
    death: str = ""  # how the last worker that died did
    shown_at: float = field(default=-1e9)

    def __post_init__(self) -> None:
        self.known = {record.number for record in self.study.records() if record.finished}  # before this night

    def work(self) -> str:
        """Score the base model once, then one trial after another; returns why it ended."""
        self._expect()
        if ending := self._base():
            return ending
        while not (ending := self._over()):
            if ending := self._trial():
                return ending
        return ending

    def close(self) -> None:
        """End the worker."""
        if self.worker:
            self.worker.quit()
            self.worker = None

    def _over(self) -> str:
        ended = view.ended(self.study.records())
        if ended >= self.config.study.trials:
            return f"all {self.config.study.trials} trials are done"
        if self.asked.times:
            return "it was asked to stop"
        return budget.may_start(self.budget_s, self.ledger.spent_s(), self._deadline_s())

    def _base(self) -> str:
        run = RunDir(self.folder / "runs" / "base")
        if before := _ended(run):
            if before["outcome"] == "completed":
                return ""
            run.result.unlink()  # it failed, and the user has had time to mend why
        if ending := self._over():
            return ending
        run.create(space.recipe(self.config, {}, self.survey))
        result, ending = self._until_ended(run, None, "base", self._plan(run.recipe()))
        if result and result["outcome"] == "failed":
            raise WorkerFailed(f"{run.path}: scoring the base model failed: {result['reason']}\n{self._log_hint()}")
        return ending

    def _trial(self) -> str:
        """Work on the next trial until it ended; returns why the night is over, or an empty string."""
        limit = self._limit_bytes()
        trial = self.study.next_trial(lambda params: self._fits(params, limit))
        run = RunDir(self.folder / "runs" / f"{trial.number:03d}")
        if not run.recipe_path.exists():
            run.create(space.recipe(self.config, trial.params, self.survey))
        recipe = run.recipe()
        planned = self._plan(recipe)
        if misfit := self._misfit(trial, recipe, planned):
            self.study.set_infeasible(trial, misfit)
            return self._too_many_misfits()
        result = _ended(run)
        if result is None:
            if ending := self._disk_full(planned):
                return ending
            result, ending = self._until_ended(run, trial, "trial", planned)
            if result is None:
                return ending
        self._tell(trial, run, planned, result)
        self._expect()
        if said := faults.ending(self.study.records(), self.folder / "worker.log", self.known):
            raise WorkerFailed(said)
        return ""

    def _expect(self) -> None:
        """Leave for whoever looks on what trials cost, by the plan and those that ended, until these alone tell."""
        if view.ended(self.study.records()) >= forecast.ENOUGH:
            return
        machine = plan_machine.machine(self.config.machine, None, None)
        so_far = plan_study.SoFar(self.folder / "runs", self.ledger.spent_s(), self.budget_s, self._deadline_s())
        if costs := plan_study.trials(self.config, self.survey.base, machine, so_far):
            forecast.keep(self.folder, costs.expected)

    def _plan(self, recipe: Recipe) -> plan.Plan:
        device, context = self.config.machine.device, plan_choice.context_bytes(self.config, self.survey)
        return plan.plan(recipe, self.survey.base, device, context)

    def _limit_bytes(self) -> int | None:
        """The memory that there is; less of it counts once a trial ran out of what the plan gave it."""
        return faults.limit_bytes(plan_choice.limit_bytes(self.config, self.survey), self.study.records())

    def _fits(self, params: Mapping[str, Value], limit: int | None) -> bool:
        recipe = space.recipe(self.config, params, self.survey)
        return not plan_choice.misfit(recipe, self.config, self.survey, limit)

    def _misfit(self, trial: OpenTrial, recipe: Recipe, planned: plan.Plan) -> str:
        """Why the trial does not fit the memory."""
        limit = self._limit_bytes()
        if limit is not None:
            self.study.constrain(trial, planned.peak_bytes / limit - 1.0)
        return plan_choice.misfit(recipe, self.config, self.survey, limit)

    def _disk_full(self, planned: plan.Plan) -> str:
        free = shutil.disk_usage(self.folder).free
        if free >= planned.disk_bytes:
            return ""
        needed, there = (f"{size / 2**30:.2f} GiB" for size in (planned.disk_bytes, free))
        return f"the disk of {self.folder} has {there} free, and the next trial may need {needed}; make room"

    def _too_many_misfits(self) -> str:
        last = self.study.records()[-MISFITS_ALLOWED:]
        if len(last) < MISFITS_ALLOWED or any("infeasible" not in record.user_attrs for record in last):
            return ""
        return f"the last {MISFITS_ALLOWED} suggestions do not fit the memory; narrow the space (see the report)"

    def _until_ended(
        self, run: RunDir, trial: OpenTrial | None, kind: str, planned: plan.Plan
    ) -> tuple[Json | None, str]:
        """Attempt the run until it ended or the night did: (result, "") or (None, why the night is over)."""
        deaths, progress = 0, _progress(run)
        while True:
            if ending := self._over() or self._no_room(planned):
                return None, ending
            try:
                attempt = self._open(run, trial)
            except BudgetExhausted:
                return None, f"the budget of {budget.hours(self.budget_s)} GPU-hours is spent"
            result = self._watch(run, trial, attempt, kind, planned)
            if result and result["outcome"] == "stopped":
                return None, result["reason"]
            if result:
                return result, ""
            if _progress(run) != progress:
                deaths, progress = 0, _progress(run)
            deaths += 1
            if deaths >= DEATHS_ALLOWED:
                reason = f"its process died {deaths} times ({self.death}) without reaching another checkpoint or answer"
                return {"outcome": "failed", "reason": reason, "score": None}, ""

    def _no_room(self, planned: plan.Plan) -> str:
        """Wait while others have the memory of the card; returns why the night is over, if it is by then."""
        if self.config.machine.device != "cuda":
            return ""
        ours = [self.worker.holder.pid] if self.worker else []
        return neighbours.wait_for_room(planned.peak_bytes, self.clock, self._over, self.say, ours)

    def _watch(
        self, run: RunDir, trial: OpenTrial | None, attempt: Attempt, kind: str, planned: plan.Plan
    ) -> Json | None:
        assert self.worker is not None
        watching = Watching(
            run=run,
            worker=self.worker,
            ledger=self.ledger,
            attempt=attempt,
            limit_s=self.budget_s,
            spent_s=self.ledger.spent_s(),
            deadline=self.deadline,
            asked=self.asked,
            judge=lambda fraction, bits: self.study.report(trial, fraction, bits) if trial else True,
            show=self.show,
            clock=self.clock,
            hang_s=60.0 * self.config.machine.hang_minutes,
            needed_bytes=planned.peak_bytes if self.config.machine.device == "cuda" else 0,
        )
        result = watching.until_over(self._job(kind, trial))
        if result is None:
            self.death = watching.death
        if result is None or result.get("broken"):  # dead, or in a state that nobody knows
            self.close()
        return result

    def _job(self, kind: str, trial: OpenTrial | None) -> Json:
        """The worker's orders. Of all files of prompts, it is told of the search half's alone."""
        rivals = standing.contest(self.folder / "runs", self.study.records(), trial.number if trial else 0)
        prompts = {
            "prompts": str((self.folder / split.FILE).resolve()),
            "prompts_sha256": split.digest(self.survey.search_half),
        }
        return {
            "kind": kind,
            "rungs": list(self.config.study.rungs),
            "checkpoint_every_s": 60.0 * self.config.machine.checkpoint_minutes,
            "objective": {**self.config.objective.model_dump(mode="json"), **prompts, **rivals},
        }

    def _open(self, run: RunDir, trial: OpenTrial | None) -> Attempt:
        if self.worker is None:
            log, machine = self.folder / "worker.log", self.config.machine
            self.worker = Worker.start(run.path.parent, log, threads=machine.threads, device=machine.device)
        lease = min(budget.LEASE_S, budget.unpaid_s(self.budget_s, self.ledger.spent_s()))
        number = trial.number if trial else None
        return self.ledger.open_attempt(
            trial=number, run=run.path.name, holder=self.worker.holder, lease_s=lease, limit_s=self.budget_s
        )

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
        self.show(force=True)

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
            self.observe(view.build(self.folder, facts, self.study.records(), *paid))
            self.shown_at = self.clock.monotonic() + 9 * (self.clock.monotonic() - now)  # a tenth of the time at most


def _ended(run: RunDir) -> Json | None:
    """The result of a run that is over, whoever was told of it."""
    result = read_json(run.result)
    return result if result and result["outcome"] in ("completed", "pruned", "failed") else None


def _progress(run: RunDir) -> tuple[str, int]:
    """What differs once a run has got further: its newest checkpoint, and the bytes of the answers that are kept."""
    newest = max((p.name for p in run.checkpoints.glob("[!.]*")), default="")
    return newest, sum(path.stat().st_size for path in run.kept_answers())


def _lines(path: Path, count: int) -> list[Json]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]
