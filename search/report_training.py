"""The report's section on the training process: how the hours went, start by start, and the losses over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search import report_charts
from search import report_text as text
from search.report_canvas import picture
from search.report_charts import Curve
from search.report_pages import Block, Heading, Missing, Paragraph, Table
from search.report_records import Records
from search.report_run import RunRecord, Start
from train.horizon import WORDS
from train.rundir import Json

OUTCOMES = {
    "completed": "reached the horizon",
    "stopped": "stopped at a checkpoint: asked to, or before a switch-off",
    "pruned": "stopped at a rung",
    "": "ended without a word: killed, crashed, or a power cut",
}


def training(records: Records) -> Iterator[Block]:
    """Of the final run; before there is one, of the best trial."""
    run, name = records.run, text.run_name(records)
    if records.final is None or not records.final.result:
        yield text.missing_final(records) if records.study.best else _no_trial(records)
    if run is None or not run.steps:
        if records.study.best:
            yield Paragraph("No step is recorded yet.")
        yield records.answers.ask("training_process")
        return
    yield from text.frozen_anew(records)
    yield Paragraph(_summary(records, run, name))
    yield from _picture_of_course(run, name)
    yield records.answers.ask("training_process")
    yield Heading("Starts and interruptions")
    yield _starts(run.starts, running=run.result is None)
    yield from _decisions(run)
    yield from _compared(records)


def _no_trial(records: Records) -> Missing:
    return Missing("No step of a complete trial is recorded yet.", text.start(records))


def _summary(records: Records, run: RunRecord, name: str) -> str:
    starts, steps = run.starts, run.steps
    lost, checkpoints = sum(start.lost for start in starts), sum(start.checkpoints for start in starts)
    parts = [
        f"The {name} made {max(steps):,} of {run.horizon:,} steps, in {len(starts)} "
        f"{'start' if len(starts) == 1 else 'starts'}, with {checkpoints:,} checkpoints."
    ]
    if lost:
        parts.append(f"Interruptions cost {lost:,} steps, which were made again from the newest checkpoint.")
    if records.final and run is records.final and run.clock_s is not None:
        hours = (records.frozen or {}).get("hours") if not records.frozen_anew else None
        allowed = f" of {text.allowance(hours)} ({run.clock_s / 3600 / hours:.1%})" if hours else ""
        used = text.duration(run.clock_s)
        parts.append(f"Its clock, which counts process time alone and is paid ahead, stands at {used}{allowed}.")
    if best := (run.result or {}).get("back_to"):
        parts.append(
            f"The held-out loss was lowest at step {best:,}, and clearly higher at the end of the supervised stage: "
            "what was learned up to there was kept."
        )
    return " ".join(parts)


def _picture_of_course(run: RunRecord, name: str) -> Iterator[Block]:
    """Losses and progress over the hours."""
    panels = [
        ("SFT loss (nats per token)", _losses(run, "sft")),
        ("DPO loss (nats per pair)", _losses(run, "dpo")),
        ("validation (bits per byte)", _validation(run)),
    ]
    steps = [(float(e["seconds"]), 100 * step / run.horizon) for step, e in _timed(run)]
    shown = [*((label, points) for label, points in panels if points), ("share of the horizon (%)", steps)]
    if not steps:
        return
    resumed = [start.seconds for start in run.starts[:-1]]
    more = " Dotted lines are interruptions." if resumed else ""
    yield picture(
        "course",
        f"The {name} over its hours",
        "Training loss of each step (thin) and its running mean (thick), loss on held-out answers, and how far the run "
        f"was, over the process time of the steps that count.{more}",
        report_charts.course(shown, resumed),
    )


def _timed(run: RunRecord) -> list[tuple[int, Json]]:
    return [(step, event) for step, event in sorted(run.steps.items()) if "seconds" in event]


def _validation(run: RunRecord) -> list[tuple[float, float]]:
    return [(float(e["seconds"]), e["bits_per_byte"]) for e in run.rungs if "seconds" in e]


def _losses(run: RunRecord, stage: str) -> list[tuple[float, float]]:
    return [(float(e["seconds"]), e["loss"]) for _, e in _timed(run) if e.get("stage", "sft") == stage]


def _starts(starts: Sequence[Start], *, running: bool) -> Table:
    rows, before = [], 0.0
    for number, start in enumerate(starts, start=1):
        ended = OUTCOMES[start.outcome]
        if number == len(starts) and running and not start.outcome:
            ended = "at work, or ended without a word"
        took = max(0.0, start.seconds - before)
        before = max(before, start.seconds)
        cells = (f"{start.from_step:,}", f"{start.came_to:,}", f"{start.lost:,}", f"{start.checkpoints:,}")
        rows.append((str(number), *cells, text.duration(took), ended))
    head = ("start", "from step", "to step", "made again", "checkpoints", "process time", "how it ended")
    caption = "Process time is that of the steps that count; what an interruption lost is on the clock alone."
    return Table(head, rows, "rrrrrrl", caption=caption)


MOST_DECISIONS = 12  # that are told


def _decisions(run: RunRecord) -> Iterator[Block]:
    """Where the run was to end, where that was decided on the way."""
    made = run.decisions
    if not made:
        return
    nth = -(-len(made) // MOST_DECISIONS)
    rows = [
        (f"{decision.step:,}", f"{decision.sft_steps:,}", f"{decision.steps:,}", WORDS[decision.why])
        for decision in [*made[:-1:nth], made[-1]]
    ]
    some = f", {len(rows)} of {len(made)}" if len(rows) < len(made) else ""
    caption = f"Where the run was to end, as decided on the way{some}; frozen for {run.recipe.steps:,} steps."
    yield Table(("after step", "end of the supervised stage", "end", "why"), rows, "rrrl", caption=caption)


def _compared(records: Records) -> Iterator[Block]:
    """The best trial and the final run over the share of the horizon, and what each came to."""
    runs: list[tuple[str, RunRecord]] = []
    if records.study.best and records.best:
        runs.append((f"trial {records.study.best.number}", records.best))
    if records.final:
        runs.append(("final run", records.final))
    panels = [
        ("SFT loss (nats per token)", [_over_horizon(name, run, "sft") for name, run in runs]),
        ("DPO loss (nats per pair)", [_over_horizon(name, run, "dpo") for name, run in runs]),
        ("validation (bits per byte)", [_probe(name, run) for name, run in runs]),
    ]
    shown = [(label, kept) for label, curves in panels if (kept := [curve for curve in curves if curve.points])]
    if len(runs) == 2 and shown:
        yield Heading("Trial and final run")
        yield picture(
            "loss",
            "Training and validation loss",
            "Over the share of the horizon, so that the short trial and the long final run can be compared; thin lines "
            "are single steps, thick ones a running mean over a twentieth of them.",
            report_charts.losses(shown),
        )
    yield _run_table(runs)


def _over_horizon(name: str, run: RunRecord, stage: str) -> Curve:
    steps = [(s, e["loss"]) for s, e in sorted(run.steps.items()) if e.get("stage", "sft") == stage]
    return Curve(name, [(step / run.horizon, loss) for step, loss in steps])


def _probe(name: str, run: RunRecord) -> Curve:
    return Curve(name, [(e["fraction"], e["bits_per_byte"]) for e in run.rungs])


def _run_table(runs: Sequence[tuple[str, RunRecord]]) -> Table:
    rows = []
    for name, run in runs:
        result = run.result or {}
        seconds = (result.get("seconds") or {}).get("train")
        rows.append(
            (
                name,
                str(result.get("outcome", "not ended")),
                *(text.count(result.get(key)) for key in ("steps", "examples", "tokens")),
                str(run.horizon),
                text.duration(seconds) if seconds is not None else "",
                str(max(0, len(run.starts) - 1)),
            )
        )
    head = ("run", "outcome", "steps", "examples", "tokens", "steps of the horizon", "training time", "times resumed")
    return Table(head, rows, "llrrrrrr")
