"""Under which licences the base model and the data of a run stand, as far as that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from search.licence_terms import asks
from search.report_pages import Block, Mono, Table
from search.report_records import Records
from train import licences
from train.licences import BASE, Licence


def known(records: Records) -> dict[str, Licence]:
    """By name (`base`, and each data source's): as the freeze recorded it, else as the study states, else as catalogue
    and cards say."""
    run, found = records.run, {}
    if run is not None:
        folder = run.facts.folder if run.facts else None
        found[BASE] = licences.of_base(run.recipe.base.model, folder)
        found |= {source.name: licences.of_source(source) for source in run.recipe.sources}
    stated = records.config.final.licences if records.config else {}
    found |= {name: licences.stated(text) for name, text in stated.items() if name in found}
    frozen = (records.frozen or {}).get("rules") or {}
    found |= {name: _parsed(held) for name, held in frozen.get("licences", {}).items()}
    return {name: licence for name, licence in found.items() if licence is not None}


def _parsed(held: object) -> Licence | None:
    try:
        return Licence.model_validate(held)
    except ValidationError:
        return None  # of another version


def of_base(records: Records) -> Iterator[Block]:
    """The base model's, or the question for it."""
    licence = known(records).get(BASE)
    if licence is not None:
        yield _table([("base model", *_cells(licence))], "")
    if licence is None or licence.by == "accepted":
        yield records.answers.ask("base_licence")


def of_data(records: Records) -> Iterator[Block]:
    """Those of the data sets, and the question for those that are not known."""
    found, run = known(records), records.run
    names = [source.name for source in run.recipe.sources] if run else []
    rows = [(Mono(name), *_cells(found[name])) for name in names if name in found]
    if rows:
        caption = "Licences as the repositories of the data give them; this is no legal advice."
        yield _table(rows, caption)
    if len([name for name in names if name in found and found[name].by != "accepted"]) < len(names):
        yield records.answers.ask("data_licences")


def _cells(licence: Licence) -> tuple[str, str, str]:
    said = {"catalogue": "Nightshift's table", "card": "its card", "study": "the study", "accepted": "whoever froze it"}
    return licence.licence, asks(licence), said[licence.by]


def _table(rows: Sequence[Sequence[str]], caption: str) -> Table:
    return Table(("what", "licence (SPDX)", "what it asks", "says"), rows, "llll", caption=caption)
