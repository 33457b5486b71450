"""What a report says, without drawing its pictures: for tests of its sections."""

from __future__ import annotations

import json
from pathlib import Path

from search.report_markdown import to_markdown
from search.report_pages import Document, Table

SECTIONS = [
    "(a) Base model selection",
    "(b) Data sets",
    "(c) Training scheme",
    "(d) Trainable parameters",
    "(e) Approaches considered",
    "(f) Resource management",
    "(g) Training process",
    "(h) Evaluation",
    "Appendix: all trials",
    "Appendix: reproduce",
]


def told(folder: Path) -> Document:
    """What a report would say, without drawing its pictures."""
    from search.report_records import gather
    from search.report_sections import document

    return document(gather(folder))


def said(document: Document) -> str:
    """All its text, as Markdown without escapes."""
    return to_markdown(document, "pictures").replace("\\", "")


def rows(document: Document) -> list[tuple[str, ...]]:
    """The rows of all tables."""
    tables = [block for section in document.sections for block in section.blocks if isinstance(block, Table)]
    return [tuple(map(str, row)) for table in tables for row in table.rows]


def row(document: Document, first: str) -> tuple[str, ...]:
    """The first row that begins with this cell."""
    return next(each for each in rows(document) if each[0] == first)


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file; None takes them out."""
    held = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))
