"""The report on what the final run's model takes: latency and size, with its adapter and merged; and whether the merged
one answers the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from objectives.agreement import Agreement, Texts
from objectives.compare import Comparison
from search import report_text as text
from search.report_pages import Block, Code, Heading, Missing, Paragraph, Table
from search.report_records import Records
from search.report_run import RunRecord
from train.rundir import Json

LATENCIES = {
    "first_token_s": ("time to the first token", "{:.4f} s"),
    "per_token_s": ("time for each further token", "{:.4f} s"),
    "tokens_per_s": ("tokens per second", "{:.1f}"),
}


def speed_and_size(records: Records, final: RunRecord) -> Iterator[Block]:
    """Everything of it, or what would record it."""
    result = final.result or {}
    run = shlex.join(["nightshift", "latency", str(records.study.folder / "final")])
    models = {"adapter on 4 bits": result}
    if final.agreement:
        models[f"merged, {result['merged']['weights']}"] = result["merged"]
    yield Heading("Latency and size")
    if result.get("latency"):
        yield _latencies({name: model["latency"] for name, model in models.items()})
    else:
        yield Missing("Latency is not recorded.", run)
    if result.get("size"):
        yield _sizes({name: model["size"] for name, model in models.items()}, result.get("merged") or {})
    else:
        yield Missing("The size is not recorded.", run)
    yield Heading("The merged model")
    yield from _merged(records, final.agreement, result.get("merged") or {})


def _latencies(models: dict[str, Json]) -> Table:
    first = next(iter(models.values()))
    rows = [
        (label, *(form.format(model[name][p]) for model in models.values() for p in ("p50", "p95")))
        for name, (label, form) in LATENCIES.items()
    ]
    caption = (
        f"Latency on {first['device']}: one prompt of {first['prompt_tokens']} tokens at a time, "
        f"{first['new_tokens']} new ones, {first['runs']} runs; the 95th percentile is of the slow side."
    )
    head = ("", *(f"{model}: {figure}" for model in models for figure in ("median", "95th percentile")))
    return Table(head, rows, "l" + "r" * (len(head) - 1), caption=caption)


def _sizes(models: dict[str, Json], merged: Json) -> Table:
    adapter = next(iter(models.values()))
    whole = text.size(merged.get("bytes"))
    beside = f"{text.size(adapter['adapter_bytes'])}, beside the base model" + (f"'s {whole}" if whole else "")
    rows = [
        ("parameters", *(text.count(model["total_parameters"]) for model in models.values())),
        ("of them trainable", *(text.count(model["trainable_parameters"]) for model in models.values())),
        ("on disk", beside, *([whole] if len(models) > 1 else [])),
        ("weights in memory", *(text.size(model["loaded_bytes"]) for model in models.values())),
    ]
    return Table(("size", *models), rows, "l" + "r" * len(models))


def _merged(records: Records, agreement: Agreement | None, merged: Json) -> Iterator[Block]:
    """How its scores and its texts differ from those of the adapter on 4 bits."""
    if agreement is None:
        reason = f": {merged['left_out']}" if merged.get("left_out") else ""
        command = ["nightshift", "export", str(records.study.folder), "--format", "merged"]
        yield Missing(f"The merged model was not looked at{reason}.", shlex.join(command))
        return
    yield Paragraph(
        f"The adapter was trained on weights in 4 bits, and merged into the base model's own, in {merged['dtype']}: "
        f"{merged['matrices']:,} matrices. Both were asked the same prompts; the merged one was loaded in "
        f"{merged['weights']}."
    )
    rows = [(text.HALVES[part], *_difference(one)) for part, one in agreement.scores.items() if part in text.HALVES]
    head = ("prompts, strict", "adapter on 4 bits", "merged", "difference", "95 % interval", "only it", "only merged")
    caption = (
        "Merged less adapter, prompt by prompt, with Tango's score interval. Only it, only merged: prompts that one "
        "alone follows."
    )
    yield Table(head, rows, "lrrrrrr", caption=caption)
    yield from _texts(agreement.texts)


def _difference(one: Comparison) -> tuple[str, ...]:
    paired = one.metrics["prompt_strict"]
    interval = f"{paired.low:+.3f} to {paired.high:+.3f}"
    alone = str(len(one.lost)), str(len(one.gained))
    return str(paired.a), str(paired.b), f"{paired.difference:+.3f}", interval, *alone


def _texts(texts: Texts) -> Iterator[Block]:
    said = f"{texts.same:,} of {texts.n:,} answers are the same text."
    if texts.earliest is None:
        yield Paragraph(said)
        return
    yield Paragraph(
        f"{said} The others part after {texts.median_at:g} characters (median). The earliest that parts is the answer "
        f"to prompt {texts.earliest.key}, after {texts.earliest.at:,}: first as the adapter goes on, then as the "
        "merged model does."
    )
    yield Code(texts.earliest.a)
    yield Code(texts.earliest.b)
