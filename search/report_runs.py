"""The report's sections on what the runs took: losses, data, memory, parameters, and the time that was charged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search import report_figures as figures
from search import report_text as text
from search.report_canvas import picture
from search.report_pages import Block, Missing, Mono, Paragraph, Table
from search.report_records import Records, RunRecord
from search.view import TrialView
from train.planning.plan import Plan


def training(records: Records) -> Iterator[Block]:
    """Losses of the best trial and of the final run over the horizon, and what became of the data."""
    runs: list[tuple[str, RunRecord]] = []
    if records.study.best and records.best:
        runs.append((f"trial {records.study.best.number}", records.best))
    if records.final:
        runs.append(("final run", records.final))
    panels = [
        ("SFT loss (nats per token)", [_losses(name, run, "sft") for name, run in runs]),
        ("DPO loss (nats per pair)", [_losses(name, run, "dpo") for name, run in runs]),
        ("probe (bits per byte)", [_probe(name, run) for name, run in runs]),
    ]
    shown = [(label, kept) for label, curves in panels if (kept := [curve for curve in curves if curve.points])]
    if not shown:
        yield Missing("No step of a complete trial is recorded yet.", text.start(records))
        return
    yield picture(
        "loss",
        "Training and held-out loss",
        "Over the share of the horizon, so that the short trial and the long final run can be compared; thin lines are "
        "single steps, thick ones a running mean over a twentieth of them.",
        figures.losses(shown),
    )
    yield _run_table(runs)
    yield from _data_table(*runs[-1])
    if records.final is None or not records.final.result:
        yield text.missing_final(records)


def _losses(name: str, run: RunRecord, stage: str) -> figures.Curve:
    steps = {e["step"]: e["loss"] for e in run.events if e.get("event") == "step" and e.get("stage", "sft") == stage}
    return figures.Curve(name, [(step / run.recipe.steps, steps[step]) for step in sorted(steps)])


def _probe(name: str, run: RunRecord) -> figures.Curve:
    rungs = {e["fraction"]: e["bits_per_byte"] for e in run.events if e.get("event") == "rung"}
    return figures.Curve(name, sorted(rungs.items()))


def _run_table(runs: Sequence[tuple[str, RunRecord]]) -> Table:
    rows = []
    for name, run in runs:
        result = run.result or {}
        resumed = sum(e.get("event") == "resumed" for e in run.events)
        seconds = result.get("seconds", {}).get("train")
        rows.append(
            (
                name,
                result.get("outcome", "not ended"),
                *(text.count(result.get(key)) for key in ("steps", "examples", "tokens")),
                str(run.recipe.steps),
                text.duration(seconds) if seconds is not None else "",
                str(resumed),
            )
        )
    head = ("run", "outcome", "steps", "examples", "tokens", "steps of the horizon", "training time", "times resumed")
    return Table(head, rows, "llrrrrrr")


def _data_table(name: str, run: RunRecord) -> Iterator[Block]:
    """What became of the rows of each data source; nothing for a run that was made before this was recorded."""
    used = [event["sources"] for event in run.events if event.get("event") == "data"]
    if not used:
        return
    rows = []
    for source, use in used[-1].items():
        removed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(use["removed"].items()) if count)
        counts = (use["rows_read"], use["rows_held_out"], use["rows_too_long"], use["rows_used"], use["examples"])
        read, *others = (f"{count:,}" for count in counts)
        rows.append((Mono(source), read, removed or "none", *others))
    head = ("data", "rows", "filtered out", "held out", "too long", "distinct rows used", "examples")
    yield Table(head, rows, "lrlrrrr", caption=f"The data of the {name}. Of rows that are too long, those it came to.")


def memory(records: Records) -> Iterator[Block]:
    """Parameters and memory, planned and measured."""
    rows = []
    for name, run in (("best trial", records.best), ("final run", records.final)):
        if run is not None:
            result = run.result or {}
            planned = run.planned
            trainable = text.count(planned.trainable_parameters if planned else None)
            peak = text.size(planned.peak_bytes if planned else None)
            rows.append((f"{name}: trainable parameters", trainable, text.count(result.get("trainable_parameters"))))
            rows.append((f"{name}: peak memory", peak, text.size(result.get("peak_memory_bytes"))))
    if not rows:
        yield Missing("No trial is complete yet.", text.start(records))
        return
    yield Table(("", "planned", "measured"), rows, "lrr")
    best = records.best
    if best is None or best.planned is None:
        yield Paragraph("The base model is not where the recipe says, so that its layers cannot be listed here.")
        return
    yield _layers(best.planned)
    yield _categories(best.planned)
    yield Paragraph("The categories are those of the moment at which a step needs most, and add up to its peak.")


def _layers(planned: Plan) -> Table:
    rows: list[Sequence[str]] = [
        (
            Mono(layer.module),
            f"{layer.inputs:,} × {layer.outputs:,}",
            str(layer.rank),
            f"{layer.parameters:,}",
            str(layer.count),
            f"{layer.parameters * layer.count:,}",
        )
        for layer in planned.layers
    ]
    rows.append(("together", "", "", "", "", f"{planned.trainable_parameters:,}"))
    head = ("module", "inputs × outputs", "rank", "parameters, rank × (inputs + outputs)", "layers", "trainable")
    return Table(head, rows, "lrrrrr", caption="Trainable parameters of the best trial.", strong=len(rows) - 1)


def _categories(planned: Plan) -> Table:
    rows: list[Sequence[str]] = [(name, text.size(size)) for name, size in planned.memory.items() if size]
    rows.append((f"peak, in the {planned.peak_stage} stage", text.size(planned.peak_bytes)))
    return Table(("memory of the best trial", "planned"), rows, "lr", strong=len(rows) - 1)


def budget(records: Records) -> Iterator[Block]:
    """The charged time, by cause and by how the trials ended."""
    spent = records.spent_by_cause
    if not spent:
        yield Missing("Nothing is spent yet.", text.start(records))
        return
    study = records.study
    lost = [a for a in records.attempts if a.outcome == "abandoned"]
    killed = "1 attempt was" if len(lost) == 1 else f"{len(lost)} attempts were"
    losses = f" {killed} killed; what had been paid for stays charged, as lost." if lost else ""
    yield Paragraph(
        f"{text.duration(study.spent_s)} of {text.duration(study.budget_s)} are charged to the search, in "
        f"{len(records.attempts)} attempts.{losses} The final run is not part of this budget."
    )
    yield picture("budget", "What the time went to", "Time charged by the ledger, by cause.", figures.spent(spent))
    by_state: dict[str, list[TrialView]] = {}
    for trial in study.trials:
        by_state.setdefault(text.state(trial), []).append(trial)
    rows = [
        (state, str(len(trials)), text.duration(sum(t.gpu_seconds for t in trials)))
        for state, trials in sorted(by_state.items())
    ]
    others = study.spent_s - sum(t.gpu_seconds for t in study.trials)
    rows.append(("no trial: the base model", "", text.duration(max(0.0, others))))
    yield Table(("how the trial ended", "trials", "charged"), rows, "lrr")
