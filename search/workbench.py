"""The one worker of a night, and the attempts that it makes on a run until that has ended, whatever it dies of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from search import budget, neighbours, split
from search.attempt import STOPPED, Asked, Show, Watching
from search.budget import Ending
from search.clock import Clock, Deadline
from search.config import StudyConfig
from search.errors import WorkerFailed
from search.launcher import Process
from search.study import OpenTrial, Study
from search.survey import Survey
from storage.ledger import Attempt, BudgetExhausted, Ledger
from train.planning import plan
from train.rundir import Json, RunDir

DEATHS_ALLOWED = 5  # of one trial's worker, without a new checkpoint or answer in between
Ended = tuple[Json | None, Ending | None]  # one of the two


class Start(Protocol):
    """Starts a worker that takes assignments in the folder `runs`."""

    def __call__(self, runs: Path, log: Path, *, threads: int, device: str) -> Process: ...


@dataclass(frozen=True)
class Task:
    """What is to be done with a run. `kind` is trial, base or fresh; `asks` is added to its job, `compared` to what its
    job says of prompts. `limit_s`: what the study may have spent by then; `over` says why it is not to be begun."""

    run: RunDir
    kind: str
    planned: plan.Plan
    limit_s: float
    over: Callable[[], Ending | None]
    trial: OpenTrial | None = None
    asks: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Workbench:
    """Where runs are worked on, one after another."""

    config: StudyConfig
    folder: Path
    survey: Survey
    study: Study
    ledger: Ledger
    deadline: Deadline | float | None
    asked: Asked
    clock: Clock
    start: Start
    show: Show
    say: Callable[[str], None]
    worker: Process | None = None
    death: str = ""  # how the last worker that died did

    def close(self) -> None:
        """End the worker."""
        if self.worker:
            self.worker.quit()
            self.worker = None

    def until_ended(self, task: Task) -> Ended:
        """Attempt the run until it ended or the night did."""
        run = task.run
        deaths, progress, unfit = 0, _progress(run), False
        while True:
            if ending := task.over() or self._no_room(task):
                return None, ending
            try:
                attempt = self._open(task)
            except BudgetExhausted:
                return None, Ending(STOPPED["budget"], settled=True)
            result = self._watch(task, attempt)
            if result and result.get("unfit"):
                if unfit:
                    log = self.folder / "worker.log"
                    raise WorkerFailed(
                        f"{run.path}: {result['reason']}\nNo recipe is at fault, so that none counts as failed. Mend "
                        f"it, then run `nightshift start` again, which goes on from here; {log} has more."
                    )
                self.close()  # it may have been for a moment, or this process alone
                unfit = True
                continue
            if result and result["outcome"] == "stopped":
                return None, Ending(result["reason"], settled=result["reason"] == STOPPED["budget"])
            if result:
                return result, None
            if _progress(run) != progress:
                deaths, progress = 0, _progress(run)
            deaths += 1
            if deaths >= DEATHS_ALLOWED:
                reason = f"its process died {deaths} times ({self.death}) without reaching another checkpoint or answer"
                return {"outcome": "failed", "reason": reason, "score": None}, None

    def _no_room(self, task: Task) -> Ending | None:
        """Wait while others have the memory of the card; returns why the night is over, if it is by then."""
        if self.config.machine.device != "cuda":
            return None
        ours = [self.worker.holder.pid] if self.worker else []
        return neighbours.wait_for_room(task.planned.peak_bytes, self.clock, task.over, self.say, ours)

    def _open(self, task: Task) -> Attempt:
        runs, name = task.run.path.parent, task.run.path.name
        if self.worker is None:
            log, machine = self.folder / "worker.log", self.config.machine
            self.worker = self.start(runs, log, threads=machine.threads, device=machine.device)
        lease = min(budget.LEASE_S, budget.unpaid_s(task.limit_s, self.ledger.spent_s()))
        number = task.trial.number if task.trial else None
        return self.ledger.open_attempt(
            trial=number, run=name, holder=self.worker.holder, lease_s=lease, limit_s=task.limit_s
        )

    def _watch(self, task: Task, attempt: Attempt) -> Json | None:
        assert self.worker is not None
        trial = task.trial
        watching = Watching(
            run=task.run,
            worker=self.worker,
            ledger=self.ledger,
            attempt=attempt,
            limit_s=task.limit_s,
            spent_s=self.ledger.spent_s(),
            deadline=self.deadline,
            asked=self.asked,
            judge=lambda fraction, bits: self.study.report(trial, fraction, bits) if trial else True,
            show=self.show,
            clock=self.clock,
            hang_s=60.0 * self.config.machine.hang_minutes,
            needed_bytes=task.planned.peak_bytes if self.config.machine.device == "cuda" else 0,
        )
        result = watching.until_over(self._job(task))
        if result is None:
            self.death = watching.death
        if result is None or result.get("broken"):  # dead, or in a state that nobody knows
            self.close()
        return result

    def _job(self, task: Task) -> Json:
        """The worker's orders. Of all files of prompts, it is told of the search half's alone."""
        prompts = {
            "prompts": str((self.folder / split.FILE).resolve()),
            "prompts_sha256": split.digest(self.survey.search_half),
        }
        return {
            "kind": task.kind,
            **task.asks,
            "rungs": list(self.config.study.rungs),
            "checkpoint_every_s": 60.0 * self.config.machine.checkpoint_minutes,
            "objective": {**self.config.objective.model_dump(mode="json"), **prompts, **task.compared},
        }


def _progress(run: RunDir) -> tuple[str, int]:
    """What differs once a run has got further: its newest checkpoint, and the bytes of the answers that are kept."""
    newest = max((p.name for p in run.checkpoints.glob("[!.]*")), default="")
    return newest, sum(path.stat().st_size for path in run.kept_answers())
