"""What was foretold of each trial, beside what it took: memory by the plan, seconds by the cost model.

The plan's memory and the measured one are recorded. Seconds are what the model of search.cost says of the stretch that
the trial ran, having learned from the trials before it alone, as when the trial began; of the first, the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search import cost_record
from search.config import StudyConfig
from search.cost import MOST, Costs, Observation
from search.report_run import RunRecord
from storage.records import TrialRecord
from train.rundir import RunDir

UNTIMED = ("overhead",)  # between trials: in no trial's result


@dataclass(frozen=True)
class Foretold:
    """One trial: planned and measured bytes at the peak, foretold and measured seconds; None where not known."""

    number: int
    planned_bytes: int | None
    measured_bytes: int | None
    foretold_s: float | None
    measured_s: float | None


def foretold(
    folder: Path, config: StudyConfig | None, best: RunRecord | None, records: Sequence[TrialRecord]
) -> list[Foretold]:
    """Every trial of which something was foretold and measured; seconds of the newest trials alone, where there are
    very many."""
    seconds = dict(_seconds(folder / "runs", config, best))
    rows = []
    for record in records:
        planned, measured = (record.user_attrs.get(f"{which}_peak_mib") for which in ("planned", "measured"))
        guess, took = seconds.get(record.number, (None, None))
        if took is not None or measured is not None:
            rows.append(Foretold(record.number, _bytes(planned), _bytes(measured), guess, took))
    return rows


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * 2**20


def _seconds(
    runs: Path, config: StudyConfig | None, best: RunRecord | None
) -> Iterator[tuple[int, tuple[float, float]]]:
    """By trial: what was foretold, and what it took, for the causes that its result tells."""
    if config is None or best is None or best.facts is None:
        return
    of = cost_record.terms(config, best.facts, None)
    before: list[Observation] = []
    for folder in sorted(path for path in runs.glob("[0-9]*") if path.is_dir())[-MOST:]:
        seen = cost_record.observation(RunDir(folder), of)
        if seen is None:
            continue
        estimate = Costs.learn(before).of(seen.work).by_cause
        causes = [cause for cause in estimate if cause in seen.seconds and cause not in UNTIMED]
        yield int(folder.name), (sum(estimate[c] for c in causes), sum(seen.seconds[c] for c in causes))
        before.append(seen)
