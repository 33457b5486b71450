"""The report's sections on the recipe: what it is, where each value came from, and what its run is made again with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from objectives.score import Measure
from search import report_text as text
from search.freeze import origins
from search.report_pages import Block, Code, Missing, Mono, Paragraph, Table
from search.report_records import Records
from train.rundir import Json


def recipe(records: Records) -> Iterator[Block]:
    """The frozen recipe with the origin of each value, or the best trial's where none is frozen."""
    study = records.study
    if study.best is None or records.best is None:
        yield Missing("No trial is complete yet, so there is no recipe to show.", text.start(records))
        return
    if records.frozen is None:
        yield text.missing_final(records)
        record = next(r for r in records.records if r.number == study.best.number)
        searched = records.best.recipe.model_dump(mode="json")
        values = origins(records.config, record) if records.config else {}
        yield _recipe_table(searched, values, f"The recipe of trial {text.trial_name(study.best)}, as it was searched.")
        return
    frozen, origin = records.frozen, records.frozen["origin"]
    yield Paragraph(
        f"Frozen from trial {origin.get('trial')}, which scored ",
        str(Measure(**origin["score"])) if origin.get("score") else "nothing that was recorded",
        ". Its digest is ",
        Mono(frozen["recipe_sha256"]),
        ".",
    )
    changes = [
        (Mono(name), text.value(c["from"]), text.value(c["to"]), c["why"])
        for name, c in origin.get("changes", {}).items()
    ]
    if changes:
        yield Table(("changed for the final run", "from", "to", "why"), changes, "lrrl")
    yield _recipe_table(frozen["recipe"], origin.get("values", {}), "The recipe of the final run.")
    if template := frozen["recipe"].get("chat_template"):
        yield Paragraph("Chat template:")
        yield Code(template.strip("\n"))


def _recipe_table(recipe: Json, values: Mapping[str, str], caption: str) -> Table:
    rows: list[tuple[str, str, str]] = []
    for name, value in recipe.items():
        if name == "chat_template":
            rows.append((Mono(name), "the tokenizer's own" if value is None else "see below", values.get(name, "")))
        elif name == "sources":
            rows += [_source_row(source, values) for source in value]
        elif name == "base":
            rows.append((Mono(name), _pinned(value["model"], value), values.get(name, "")))
        elif name == "probe":
            where = ", ".join(value["sources"]) or "all sft data"
            rows.append((Mono(name), f"{value['rows']} rows of {where}", values.get(name, "")))
        elif name == "rows":
            rows.append((Mono(name), "all" if value is None else f"{value:,}", values.get(name, "")))
        else:
            rows.append((Mono(name), text.value(value), values.get(name, "")))
    return Table(("hyperparameter", "value", "where from"), rows, "lll", caption=caption)


def _source_row(source: Json, values: Mapping[str, str]) -> tuple[str, str, str]:
    weight = f"weight.{source['name']}"
    pinned = _pinned(source["path"] or source["hub"], source)
    shown = f"{source['use']}, weight {text.value(source['weight'])}: {pinned}"
    return Mono(f"sources.{source['name']}"), shown, values.get(weight, values.get("sources", ""))


def _pinned(name: str, value: Json) -> str:
    pins = [f"{key} {value[key][:12]}" for key in ("revision", "sha256") if value.get(key)]
    return f"{name} ({', '.join(pins)})" if pins else name


def reproduce(records: Records) -> Iterator[Block]:
    """Commands, versions and digests of the final run."""
    study = records.study
    if records.frozen is None:
        yield text.missing_final(records) if study.best else Missing("No trial is complete yet.", text.start(records))
        return
    frozen = records.frozen
    yield Paragraph(
        "final_run.py holds the whole recipe. In another folder, on the same hardware and with the same versions, it "
        "gives the same adapter, bit for bit, where its hours reach the horizon (on a GPU, sums may differ)."
    )
    yield Code(f"python {study.folder / 'final_run.py'}\npython {study.folder / 'final_run.py'} --status")
    used = (text.final_result(records) or {}).get("versions", {})
    rows = [(Mono(name), version, used.get(name, "")) for name, version in frozen["versions"].items()]
    yield Table(("library", "frozen with", "final run with"), rows, "lll")
    pinned = frozen["recipe"]
    pins = [("recipe", frozen["recipe_sha256"]), ("prompts", frozen["objective"]["prompts_sha256"])]
    pins += [("base model", pinned["base"]["sha256"] or pinned["base"]["revision"])]
    pins += [(f"data {s['name']}", s["sha256"] or s["revision"]) for s in pinned["sources"]]
    yield Table(("what", "SHA-256 or commit"), [(name, Mono(pin or "not pinned")) for name, pin in pins], "ll")
