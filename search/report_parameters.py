"""The report's section on what is trained: the adapters' parameters, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search import report_text as text
from search.report_pages import Block, Missing, Mono, Paragraph, Table
from search.report_records import Records
from search.report_run import RunRecord
from train.planning.plan import Plan


def trainable(records: Records) -> Iterator[Block]:
    """The calculation, and the count of the run itself."""
    run, name = records.run, text.run_name(records)
    if run is None:
        yield Missing("No trial is complete yet, so that there is no adapter to count.", text.start(records))
        return
    measured = (run.result or {}).get("trainable_parameters")
    if run.planned is None or run.facts is None:
        yield Paragraph("The base model is not where the recipe says, so that its layers cannot be listed here.")
        if measured:
            yield Paragraph(f"The {name} itself counted {measured:,} trainable parameters.")
        return
    yield _formula(run)
    yield _layers(run.planned, name)
    yield from _checked(run, run.planned, measured, name)


def _formula(run: RunRecord) -> Paragraph:
    more = ", and with DoRA a norm for each output" if run.recipe.use_dora else ""
    return Paragraph(
        "Beside a linear layer of m outputs and n inputs, an adapter of rank r has two matrices, B of m × r and A of "
        f"r × n: r × (n + m) parameters{more}. Everything else stays as it is: embeddings, output head, norms, and "
        "the layers themselves."
    )


def _layers(planned: Plan, name: str) -> Table:
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
    return Table(head, rows, "lrrrrr", caption=f"Trainable parameters of the {name}.", strong=len(rows) - 1)


def _checked(run: RunRecord, planned: Plan, measured: int | None, name: str) -> Iterator[Block]:
    assert run.facts is not None
    total = planned.trainable_parameters
    everything = run.facts.parameters + total
    if measured is None:
        counted = f"The {name} has not recorded its own count yet."
    elif measured == total:
        counted = f"The {name} itself counted as many."
    else:
        counted = f"The {name} itself counted {measured:,}, which differs from the calculation."
    size = (run.result or {}).get("size") or {}
    disk = f" On disk the adapter takes {text.size(size['adapter_bytes'])}." if size.get("adapter_bytes") else ""
    yield Paragraph(
        f"{total:,} of {everything:,} parameters, base model and adapter together, are trained: "
        f"{total / everything:.2%}. {counted}{disk}"
    )
