"""The report's section on data: which sets, what was left out of them and why, and what a training example is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from search import report_licences
from search import report_text as text
from search.report_pages import Block, Heading, Missing, Mono, Paragraph, Table
from search.report_records import Records
from search.report_run import RunRecord
from train.recipe import Filters, Recipe, Source
from train.rundir import Json

OVERLAP = "overlap"


def data_sets(records: Records) -> Iterator[Block]:
    """The sets, their rows, and the preprocessing."""
    yield records.answers.ask("data_sets")
    run = records.run
    if run is None:
        sources = records.config.data if records.config else ()
        if sources:
            yield _sets(sources)
        yield Missing("No trial is complete yet, so that no rows are counted.", text.start(records))
        return
    yield _sets(run.recipe.sources)
    yield from report_licences.of_data(records)
    yield from _rows(run, text.run_name(records))
    yield Heading("Preprocessing")
    yield from _preprocessing(run.recipe)


def _sets(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        pins = [f"{name} {pin[:12]}" for name in ("revision", "sha256") if (pin := getattr(source, name))]
        split = f", split {source.split}" if source.hub else ""
        rows.append((Mono(source.name), f"{source.path or source.hub}{split}", ", ".join(pins), _stage(source)))
    return Table(("data set", "where from", "pinned by", "used for"), rows, "llll")


def _stage(source: Source) -> str:
    use = "supervised stage" if source.use == "sft" else "preferences (DPO)"
    return f"{use}, weight {text.value(source.weight)}"


def _rows(run: RunRecord, name: str) -> Iterator[Block]:
    """What became of the rows of each set; nothing for a run that was made before this was recorded."""
    uses = [event["sources"] for event in run.events if event.get("event") == "data" and event.get("sources")]
    if not uses:
        yield Paragraph("What became of the rows is not recorded.")
        return
    used = _shared_out(run, uses[-1])
    head = ("data set", "rows", "filtered out", "held out", "too long", "distinct rows used", "examples", "epochs")
    rows = [_row(source, use) for source, use in used.items()]
    caption = (
        f"Rows of the {name}. Held out are the probe's, which are never trained on; of rows that are too long, those "
        "that it came to; epochs are examples for each distinct row used."
    )
    if used != uses[-1]:
        caption += (
            f" Examples are those of the {max(run.steps):,} steps that it made, shared out as its data are mixed; rows "
            "were looked at for the longest run that its hours might have held."
        )
    yield Table(head, rows, "lrlrrrrr", caption=caption)
    overlapping = sum(count for use in used.values() for why, count in use["removed"].items() if OVERLAP in why)
    apart = [source for source in run.recipe.sources if source.filters.overlap == "drop"]
    if apart:
        yield Paragraph(
            f"{overlapping:,} rows were left out because their prompt shares eight words in a row with a prompt that "
            "models are scored on."
        )


def _shared_out(run: RunRecord, read: Json) -> Json:
    """What each source gave to the steps that were made, of what was `read` of it: data are read for the longest run
    that there may be, and an end that is decided on the way comes earlier."""
    if not run.steps:
        return read
    stages = {source.name: "dpo" if source.use == "preference" else "sft" for source in run.recipe.sources}
    made, counted = Counter(step.get("stage", "sft") for step in run.steps.values()), Counter[str]()
    for name, use in read.items():
        counted[stages.get(name, "sft")] += use["examples"]
    shared = {}
    for name, use in read.items():
        stage = stages.get(name, "sft")
        part = min(1.0, made[stage] * run.recipe.batch_size / max(1, counted[stage]))
        examples = round(part * use["examples"])
        shared[name] = {**use, "examples": examples, "rows_used": min(use["rows_used"], examples)}
    return shared


def _row(source: str, use: Json) -> tuple[str, ...]:
    removed = ", ".join(f"{reason} {count:,}" for reason, count in sorted(use["removed"].items()) if count)
    counts = (use["rows_held_out"], use["rows_too_long"], use["rows_used"], use["examples"])
    epochs = f"{use['examples'] / use['rows_used']:.2f}" if use["rows_used"] else ""
    return (Mono(source), f"{use['rows_read']:,}", removed or "none", *(f"{count:,}" for count in counts), epochs)


def _preprocessing(recipe: Recipe) -> Iterator[Block]:
    """From a row to an example, as the recipe has it."""
    rows = [(Mono(source.name), *_treatment(source)) for source in recipe.sources]
    yield Table(("data set", "read as", "left out"), rows, "lll")
    packed = (
        "Several short examples are packed into the place of a long one, and attend to themselves alone."
        if recipe.packing
        else "Every example has a row of its own."
    )
    template = "the tokenizer's own" if recipe.chat_template is None else "the recipe's, which stands in section (c)"
    yield Paragraph(
        f"Each row is shown to the model through one chat template, {template}. The loss counts the answer and the "
        f"token that ends it, and nothing before. Examples are at most {recipe.max_length:,} tokens long; longer ones "
        f"are left out, not cut. {packed}"
    )
    where = ", ".join(recipe.probe.sources) or "all supervised data"
    yield Paragraph(
        f"{recipe.probe.rows} rows of {where} are held out as the probe, chosen by the hash of their text, so that all "
        "trials and the final run have the same ones. Sets of one stage are mixed by their weights."
    )


def _treatment(source: Source) -> tuple[str, str]:
    shape = "fields told by its columns" if source.format == "auto" else f"format {source.format}"
    mapped = {key: value for key, value in source.fields.model_dump().items() if value is not None}
    if mapped:
        shape = ", ".join(f"{key} from {value}" for key, value in mapped.items())
    every = "; a row of each answer of a chat" if source.answers == "every" else ""
    cap = f"at most {source.rows:,} rows" if source.rows else ""
    return shape + every, "; ".join(filter(None, [*_filters(source.filters), cap])) or "nothing"


def _filters(filters: Filters) -> Iterator[str]:
    for unit, low, high in (
        ("characters", filters.min_chars, filters.max_chars),
        ("words", filters.min_words, filters.max_words),
    ):
        if low or high is not None:
            yield f"answers of fewer than {low} {unit}" if high is None else f"answers outside {low} to {high} {unit}"
    if filters.languages:
        yield f"languages other than {', '.join(filters.languages)}"
    if filters.refusals == "drop":
        yield "refusals"
    if filters.duplicates != "keep":
        near = f" and near ones (similarity {filters.similarity:g})" if filters.duplicates == "near" else ""
        yield f"exact duplicates{near}"
    if filters.overlap == "drop":
        yield "prompts that overlap with evaluation prompts"
    if filters.bad_rows == "drop":
        yield "rows that cannot be read"
