"""The one worker of a night, and the attempts that it makes on a run until that has ended, whatever it dies of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from search import budget, neighbours, split, standing
from search.attempt import Asked, Show, Watching
from search.clock import Clock, Deadline
from search.config import StudyConfig
from search.launcher import Process
from search.study import OpenTrial, Study
from search.survey import Survey
from storage.ledger import Attempt, BudgetExhausted, Ledger
from train.planning import plan
from train.rundir import Json, RunDir

DEATHS_ALLOWED = 5  # of one trial's worker, without a new checkpoint or answer in between
Ended = tuple[Json | None, str]  # (result, "") or (None, why the night is over)


class Start(Protocol):
    """Starts a worker that takes assignments in the folder `runs`."""

    def __call__(self, runs: Path, log: Path, *, threads: int, device: str) -> Process: ...


@dataclass
class Workbench:
    """Where runs are worked on, one after another. `over` says why the night is over, or nothing."""

    config: StudyConfig
    folder: Path
    survey: Survey
    study: Study
    ledger: Ledger
    budget_s: float
    deadline: Deadline | float | None
    asked: Asked
    clock: Clock
    start: Start
    over: Callable[[], str]
    show: Show
    say: Callable[[str], None]
    worker: Process | None = None
    death: str = ""  # how the last worker that died did

    def close(self) -> None:
        """End the worker."""
        if self.worker:
            self.worker.quit()
            self.worker = None

    def until_ended(self, run: RunDir, trial: OpenTrial | None, kind: str, planned: plan.Plan) -> Ended:
        """Attempt the run until it ended or the night did."""
        deaths, progress = 0, _progress(run)
        while True:
            if ending := self.over() or self._no_room(planned):
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
        return neighbours.wait_for_room(planned.peak_bytes, self.clock, self.over, self.say, ours)

    def _open(self, run: RunDir, trial: OpenTrial | None) -> Attempt:
        if self.worker is None:
            log, machine = self.folder / "worker.log", self.config.machine
            self.worker = self.start(run.path.parent, log, threads=machine.threads, device=machine.device)
        lease = min(budget.LEASE_S, budget.unpaid_s(self.budget_s, self.ledger.spent_s()))
        number = trial.number if trial else None
        return self.ledger.open_attempt(
            trial=number, run=run.path.name, holder=self.worker.holder, lease_s=lease, limit_s=self.budget_s
        )

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


def _progress(run: RunDir) -> tuple[str, int]:
    """What differs once a run has got further: its newest checkpoint, and the bytes of the answers that are kept."""
    newest = max((p.name for p in run.checkpoints.glob("[!.]*")), default="")
    return newest, sum(path.stat().st_size for path in run.kept_answers())
