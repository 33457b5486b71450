"""The final race as a part of a night's work: one turn after another, each an attempt of its own in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from search import finals_record, notes, ranking
from search.attempt import Show
from search.budget import Ending
from search.config import StudyConfig
from search.finals import Race, Turn
from search.study import Study
from search.survey import Survey
from search.workbench import Task, Workbench
from storage.records import TrialRecord
from train.planning.plan import Plan
from train.recipe import Recipe
from train.rundir import RunDir, write_json


@dataclass
class FinalRace:
    """The race of a study's best trials, which is the same wherever it was interrupted."""

    config: StudyConfig
    folder: Path
    survey: Survey
    study: Study
    bench: Workbench
    plan: Callable[[Recipe], Plan]

    def work(self, limit_s: float, over: Callable[[], Ending | None], show: Show) -> Ending | None:
        """Have fresh prompts answered until the race is decided; returns why the night is over before that."""
        while (race := self._keep()) and race.next:
            show(force=True)
            if ending := self._turn(race.next, limit_s, over):
                return ending
        show(force=True)
        return None

    def said(self) -> str:
        """How the race stands, or why there is none, in a few words; none where nobody asked for one."""
        if race := self._keep():
            return race.brief
        return finals_record.nothing_to_ask(self.config, len(self.survey.search_half))

    @cached_property
    def best(self) -> list[TrialRecord]:
        """Those that race, the best one first. Nobody joins them while they do, or leaves once one has answered."""
        records, wanted = self.study.records(), self.config.study.finalists
        before = finals_record.kept(self.folder, records)
        begun = before.runners if before and any(each.fresh for each in before.runners) else ()
        count = max(wanted, len(begun)) if wanted else 0
        return [each.record for each in ranking.ranked(self.config, records)[:count]]

    def _keep(self) -> Race | None:
        race = finals_record.race(self.config, self.folder / "runs", self.best, len(self.survey.search_half))
        if race:
            finals_record.keep(self.folder, race, self.study.records())
            self.study.note(notes.of_race(race))
        return race

    def _turn(self, turn: Turn, limit_s: float, over: Callable[[], Ending | None]) -> Ending | None:
        runs = self.folder / "runs"
        trial, run = RunDir(runs / f"{turn.trial:03d}"), finals_record.turn_run(runs, turn)
        recipe = trial.recipe()
        run.create(recipe)
        task = Task(
            run,
            "fresh",
            self.plan(recipe),
            limit_s,
            over,
            asks={"adapter": str(trial.adapter.resolve())},
            compared={"fresh": [turn.begin, turn.end]},
        )
        result, ending = self.bench.until_ended(task)
        if result and finals_record.result(run) is None:  # it died too often to write that down itself
            write_json(run.result, {"attempt": 0, "seconds": {}, **result})
        return ending
