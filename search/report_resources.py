"""The report's section on resources: memory and time, foretold and measured, and what the charged time went to."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from search import budget, report_charts
from search import report_text as text
from search.cost import LOST
from search.faults import out_of_memory
from search.report_canvas import picture
from search.report_foretold import Foretold
from search.report_pages import Block, Heading, Missing, Paragraph, Table
from search.report_records import Records
from search.report_run import RunRecord
from search.view import TrialView
from storage.ledger import Attempt

WORK = ("train", "score")  # causes that are the point of a trial; all others are what it costs besides
CAUSES = {
    "load": "loading the base model",
    "data": "reading rows and tokens",
    "train": "training steps",
    "probe": "the probe at rungs",
    "save": "checkpoints and adapters",
    "score": "answering prompts, judging the answers",
    "race": "the final race, on fresh prompts",
    "overhead": "all else: starting, settling, waiting",
    "lost": "paid for and lost in kills",
    "running": "attempts that are open",
}


def resources(records: Records) -> Iterator[Block]:
    """Memory, time, and the budget."""
    yield Heading("Memory and time, foretold and measured")
    yield from _foretold(records)
    yield from _runs(records)
    yield from _out_of_memory(records)
    yield from _categories(records)
    yield Heading("The budget")
    yield from _budget(records)


def _foretold(records: Records) -> Iterator[Block]:
    memory = _pairs(records.foretold, "planned_bytes", "measured_bytes")
    seconds = _pairs(records.foretold, "foretold_s", "measured_s")
    if not memory and not seconds:
        yield Missing("No trial has been measured yet.", text.start(records))
        return
    yield picture(
        "foretold",
        "Foretold and measured",
        "One dot a trial: peak memory against the plan's, and seconds (without waiting) against what the cost model, "
        "which learns from the trials before, says of them. On the line both are the same.",
        report_charts.foretold(memory, seconds),
    )
    rows = []
    for name, pairs in (("peak memory", memory), ("seconds of a trial", seconds)):
        if pairs:
            off = statistics.median(abs(measured / guess - 1) for guess, measured in pairs)
            above = max(measured / guess for guess, measured in pairs)
            rows.append((name, str(len(pairs)), text.median_ratio(pairs), f"{off:.0%}", f"{above:.2f}"))
    head = ("", "trials", "measured / foretold (median)", "off by (median)", "largest measured / foretold")
    yield Table(head, rows, "lrrrr")


def _pairs(rows: Sequence[Foretold], guess: str, measured: str) -> list[tuple[float, float]]:
    found = [(getattr(row, guess), getattr(row, measured)) for row in rows]
    return [(float(first), float(second)) for first, second in found if first and second]


def _runs(records: Records) -> Iterator[Block]:
    """The plan of the best trial and of the final run, beside what they took."""
    rows = [
        row
        for name, run in (("best trial", records.best), ("final run", records.final))
        if run is not None
        for row in _planned(name, run)
    ]
    if rows:
        yield Table(("", "planned", "measured"), rows, "lrr")
    if records.config and records.config.machine.device == "cpu":
        yield Paragraph(
            "On the CPU the measured peak is the largest that the process ever was, with its libraries and whatever "
            "trials it had before."
        )


def _planned(name: str, run: RunRecord) -> Iterator[tuple[str, str, str]]:
    result, planned = run.result or {}, run.planned
    peak = text.size(planned.peak_bytes if planned else None)
    yield (f"{name}: peak memory", peak, text.size(result.get("peak_memory_bytes")))
    if told := _own_forecast(run):
        step, left_s, took_s = told
        yield (
            f"{name}: seconds of training left, as told at step {step}",
            text.duration(left_s),
            text.duration(took_s),
        )


def _own_forecast(run: RunRecord) -> tuple[int, float, float] | None:
    """What the run said at its first twentieth of how long it would still take, and how long it did; None where it
    told nothing, or has not come to its end."""
    steps = run.steps
    if not steps or max(steps) < run.horizon:
        return None
    told = [e for e in steps.values() if e.get("left_s") is not None and e["step"] * 20 >= run.horizon]
    first, last = min(told, key=lambda e: int(e["step"]), default=None), steps[max(steps)]
    if first is None or first is last or "seconds" not in first:
        return None
    return int(first["step"]), float(first["left_s"]), float(last["seconds"] - first["seconds"])


def _out_of_memory(records: Records) -> Iterator[Block]:
    trials = records.study.trials
    if not trials:
        return
    misfits, failed = sum(t.state == "infeasible" for t in trials), [t for t in trials if t.state == "failed"]
    ran_out = sum(out_of_memory(t.reason) for t in failed)
    avoided = "No suggestion had" if not misfits else f"{misfits} suggestion{' had' if misfits == 1 else 's had'}"
    yield Paragraph(
        f"{avoided} to be turned down because the plan said that it does not fit the memory (the search itself passes "
        f"over such recipes, too, before they become trials). {ran_out or 'No'} trial ran out of memory."
    )


def _categories(records: Records) -> Iterator[Block]:
    """What the memory is for."""
    planned = records.run.planned if records.run else None
    if planned is None:
        return
    rows: list[Sequence[str]] = [(name, text.size(size)) for name, size in planned.memory.items() if size]
    rows.append((f"peak, in the {planned.peak_stage} stage", text.size(planned.peak_bytes)))
    head = (f"memory of the {text.run_name(records)}", "planned")
    caption = "The categories are those of the moment at which a step needs most, and add up to its peak."
    yield Table(head, rows, "lr", strong=len(rows) - 1, caption=caption)


def _budget(records: Records) -> Iterator[Block]:
    """The charged time, by cause and by how the trials ended."""
    spent, study = records.spent_by_cause, records.study
    if not spent:
        yield Missing("Nothing is spent yet.", text.start(records))
        return
    lost = [a for a in records.attempts if a.outcome == "abandoned"]
    killed = "1 attempt was" if len(lost) == 1 else f"{len(lost)} attempts were"
    losses = f" {killed} killed; what had been paid for stays charged, as lost." if lost else ""
    yield Paragraph(
        f"{text.duration(study.spent_s)} of {budget.hours(study.budget_s)} GPU-hours are charged to the search, in "
        f"{len(records.attempts)} attempts.{losses} The final run is not part of this budget."
    )
    yield picture(
        "budget", "What the time went to", "Time charged by the ledger, by cause.", report_charts.spent(spent)
    )
    yield _besides(records.attempts)
    yield _by_end(records)
    yield from _days(records.attempts)


def _besides(attempts: Sequence[Attempt]) -> Table:
    """What trials cost besides training and scoring: together, and of a trial."""
    trials: dict[int, dict[str, float]] = {}
    for attempt in attempts:
        if attempt.trial is not None:
            costs = trials.setdefault(attempt.trial, {})
            for cause, seconds in attempt.costs.items():
                costs[cause] = costs.get(cause, 0.0) + seconds
    total = sum(sum(costs.values()) for costs in trials.values())
    causes = sorted({cause for costs in trials.values() for cause in costs} - set(WORK))
    rows = [(CAUSES.get(cause, cause), *_besides_row(trials.values(), [cause], total)) for cause in causes]
    rows.append(("together", *_besides_row(trials.values(), causes, total)))
    head = ("besides training and scoring", "of all trials", "share", "of a trial (median)", "at most")
    caption = f"What the {len(trials)} trials that were begun cost besides training steps and scoring."
    if set(causes) & set(LOST):
        caption += " What a kill lost is charged to no other cause, and may have been training."
    return Table(head, rows, "lrrrr", strong=len(rows) - 1, caption=caption)


def _besides_row(trials: Collection[Mapping[str, float]], causes: Sequence[str], total: float) -> tuple[str, ...]:
    seconds = [sum(costs.get(cause, 0.0) for cause in causes) for costs in trials]
    share = f"{sum(seconds) / total:.1%}" if total else ""
    middle, most = statistics.median(seconds or [0.0]), max(seconds, default=0.0)
    return text.duration(sum(seconds)), share, text.exact_duration(middle), text.exact_duration(most)


def _by_end(records: Records) -> Table:
    by_state: dict[str, list[TrialView]] = {}
    for trial in records.study.trials:
        by_state.setdefault(text.told_state(trial), []).append(trial)
    rows = [
        (state, str(len(trials)), text.duration(sum(t.gpu_seconds for t in trials)))
        for state, trials in sorted(by_state.items())
    ]
    others = records.study.spent_s - sum(t.gpu_seconds for t in records.study.trials)
    rows.append(("no trial: the base model, the final race", "", text.duration(max(0.0, others))))
    return Table(("how the trial ended", "trials", "charged"), rows, "lrr")


ENDS = {
    None: "at work",
    "abandoned": "killed, or a power cut",
    "died": "its process died",
    "lapsed": "its lease had lapsed",
    "recycled": "handed over to another process",
    "stopped": "stopped, to go on later",
}


def _days(attempts: Sequence[Attempt]) -> Iterator[Block]:
    """On which days the search ran, and how its attempts ended."""
    days: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        days.setdefault(f"{attempt.opened_at:%Y-%m-%d}", []).append(attempt)
    rows = [
        (day, str(len(made)), text.duration(sum(a.charged_s for a in made)), _ends(made)) for day, made in days.items()
    ]
    head = ("day (UTC)", "attempts", "charged", "how they ended")
    yield Table(head, rows, "lrrl", caption="An attempt is one process at work on one run.")


def _ends(attempts: Sequence[Attempt]) -> str:
    counts = Counter(ENDS.get(attempt.outcome, str(attempt.outcome)) for attempt in attempts)
    return ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))
