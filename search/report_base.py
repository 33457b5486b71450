"""The report's section on the base model: what it is, what it may be used for, and what it scored before training."""

from __future__ import annotations

from collections.abc import Iterator

from search import report_licences
from search import report_text as text
from search.report_pages import Block, Missing, Mono, Paragraph, Table
from search.report_records import Records
from train.catalog import KnownBase, known
from train.planning.plan import BaseFacts
from train.recipe import Base


def base_model(records: Records) -> Iterator[Block]:
    """Facts and reasons."""
    base = _base(records)
    if base is None:
        yield Missing("It is not recorded which base model this study has.", text.start(records))
        yield records.answers.ask("base_model")
        return
    yield records.answers.ask("base_model")
    facts, entry = records.run.facts if records.run else None, known(base.model)
    yield Table(("base model", ""), [*_names(base, facts, entry), *_shape(facts)], "ll")
    if facts is None:
        yield Paragraph(f"The files of the base model are not at {base.model} any more, so that its shape is not told.")
    yield from report_licences.of_base(records)
    yield from _checked(base, facts)
    yield from _before(records)


def _base(records: Records) -> Base | None:
    if records.run:
        return records.run.recipe.base
    return records.config.base if records.config else None


def _names(base: Base, facts: BaseFacts | None, entry: KnownBase | None) -> list[tuple[str, str]]:
    rows = [("name", Mono(base.model))]
    revision, digest = base.revision or (facts and facts.revision), base.sha256 or (facts and facts.sha256)
    rows += [("commit on the hub", Mono(revision))] if revision else []
    rows += [("SHA-256 of its files", Mono(digest))] if digest else []
    return [*rows, *([("family", entry.family)] if entry else [])]


def _shape(facts: BaseFacts | None) -> list[tuple[str, str]]:
    if facts is None:
        return []
    shared = f", of which {facts.kv_heads} for keys and values" if facts.kv_heads != facts.heads else ""
    return [
        ("architecture", facts.model_type),
        ("parameters", text.count(facts.parameters)),
        ("decoder layers", str(facts.layers)),
        ("hidden size, inside the MLP", f"{facts.hidden:,}, {facts.intermediate:,}"),
        ("attention heads", f"{facts.heads} of {facts.head_dim}{shared}"),
        ("vocabulary", f"{facts.vocab:,} tokens" + (", its embedding also the output head" if facts.tied else "")),
        ("longest context", f"{facts.context:,} tokens"),
        ("chat template of its own", text.value(facts.has_chat_template)),
    ]


def _checked(base: Base, facts: BaseFacts | None) -> Iterator[Block]:
    """Whether it is a base model."""
    if facts is None:
        return
    if facts.tuned is None:
        yield Paragraph(
            "It is a base model as far as its files tell: neither its name nor the token that ends its texts says that "
            "it was tuned for chat."
        )
        return
    allowed = "; allow_instruct was set to use it all the same" if base.allow_instruct else ""
    yield Paragraph(f"It is no plain base model: {facts.tuned}{allowed}.")


def _before(records: Records) -> Iterator[Block]:
    """What it scored as it came."""
    scores = records.final.base_scores if records.final else {}
    rows = [(text.HALVES[part], score.prompt_strict) for part, score in scores.items() if part in text.HALVES]
    if records.study.base:
        rows.insert(0, ("prompts that the search asks", records.study.base))
    if not rows:
        yield Missing("The base model is not scored yet.", text.start(records))
        return
    cells = [(prompts, str(measure.n), str(measure)) for prompts, measure in rows]
    caption = "Before any training: share of IFEval prompts of which every instruction was followed, judged strictly."
    yield Table(("prompts", "number", "base model"), cells, "lrr", caption=caption)
