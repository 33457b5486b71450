"""What the report's sections have in common: records as text, and what is still missing."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from objectives.score import Measure
from search.report_pages import Block, Missing, Paragraph
from search.report_records import Records
from search.view import TrialView
from train.rundir import Json

HALVES = {"search": "search half", "sealed": "sealed half", "all": "all prompts"}
STATES = {"infeasible": "too large for the memory", "behind": "ended as behind"}


def missing_final(records: Records) -> Missing:
    """What is not there of the final run, and the command that makes it."""
    if records.frozen is None:
        what = records.frozen_problem or "The best trial is not frozen yet."
        return Missing(what, shlex.join(["nightshift", "freeze", str(records.study.folder)]))
    started = "has not ended yet" if records.final else "has not been started"
    return Missing(f"The final run {started}.", shlex.join(["python", str(records.study.folder / "final_run.py")]))


def frozen_anew(records: Records) -> Iterator[Block]:
    """A word where file and run of the final run are not of one recipe."""
    if records.frozen_anew:
        yield Paragraph(
            "The final_run.py that is here is not the one that the final run was made with: it has another recipe. "
            "Sections (c) and the appendix tell of the file, all others of the run. Put back the file that the run was "
            "made with, or make the run of this one."
        )


def final_result(records: Records) -> Json | None:
    """The result of the final run, if it has ended."""
    return records.final.result if records.final else None


def run_name(records: Records) -> str:
    """Which run `records.run` is."""
    if records.final:
        return "final run"
    return f"trial {records.study.best.number}" if records.study.best else ""


def start(records: Records) -> str:
    """The command that goes on with the study."""
    return shlex.join(["nightshift", "start", str(records.study.folder / "study.toml")])


def trial_name(trial: TrialView) -> str:
    """Its number, and the prior that it is."""
    return f"{trial.number}, prior {trial.prior}" if trial.prior else str(trial.number)


def state(trial: TrialView) -> str:
    """How it stands; a trial that the race ended is told apart from one that was asked everything."""
    return "behind" if trial.behind is not None else trial.state


def told_state(trial: TrialView) -> str:
    """How it stands, in words."""
    return STATES.get(state(trial), trial.state)


def told_score(trial: TrialView) -> str:
    """Its score, or the estimate of one, marked as such."""
    if trial.behind is not None and trial.value is not None:
        done = "" if trial.followed is None else f"{trial.followed} of {trial.asked}, "
        return f"{done}≈ {trial.value:.3f}"
    return measure(trial.score)


def measure(known: Measure | None) -> str:
    """A proportion with its standard error; nothing where it is not known."""
    return str(known) if known else ""


def value(known: Any, *, digits: int = 4) -> str:
    """A hyperparameter; a dash for None. `digits` are those of a fraction that are told."""
    if known is None:
        return "–"
    if isinstance(known, bool):
        return "yes" if known else "no"
    return f"{known:.{digits}g}" if isinstance(known, float) else str(known)


def count(known: int | None) -> str:
    """A number of things; nothing where it is not known."""
    return "" if known is None else f"{known:,}"


def size(known: int | None) -> str:
    """Bytes in the unit that reads best; nothing where they are not known."""
    if not known:
        return ""
    if known < 2**20:
        return f"{known / 2**10:,.1f} KiB"
    return f"{known / 2**30:.2f} GiB" if known >= 10 * 2**30 else f"{known / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds >= 3600:
        return f"{seconds / 3600:.2f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"


def allowance(hours: float) -> str:
    """The hours of a final run; those of a rehearsal are seconds."""
    return f"{hours:g} hours" if hours >= 1 else duration(3600 * hours)


def exact_duration(seconds: float) -> str:
    """Seconds in the unit that reads best, also where they are few."""
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)


def median_ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """The median of second over first."""
    return f"{statistics.median(second / first for first, second in pairs):.2f}"
