"""A report as a document, which search.report_html, search.report_markdown and search.report_pdf write down.

Whatever a document contains is text; it is escaped there, and there is no way to put markup in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TypeVar

Align = str  # one letter a column: l or r


class Mono(str):
    """Text to be set in a fixed-width font: names, commands, digests."""

    __slots__ = ()


@dataclass(frozen=True)
class Paragraph:
    """Running text; parts that are Mono are set as code."""

    parts: tuple[str, ...]

    def __init__(self, *parts: str) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class Missing:
    """Something that has not been recorded, and the command that would record it."""

    what: str
    command: str


@dataclass(frozen=True)
class Heading:
    """What the blocks after it, within a section, are about."""

    text: str


@dataclass(frozen=True)
class Blank:
    """A question that no record answers and a person has not answered yet: `key` in the file `where`."""

    key: str
    question: str
    where: str


@dataclass(frozen=True)
class Words:
    """A person's answer to a question, told apart from what was recorded."""

    question: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells. `align` has one letter a column; the row with the index `strong` stands out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: Align
    caption: str = ""
    strong: int | None = None


@dataclass(frozen=True)
class Forms:
    """A picture as an SVG element for a page, as a whole SVG file without text elements, and as PNG."""

    svg: str
    paths: bytes
    png: bytes


@dataclass(frozen=True)
class Picture:
    """A picture, drawn when its forms are first asked for (see search.report_canvas). `name` is a slug."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Forms]

    @cached_property
    def forms(self) -> Forms:
        """What `draw` gives."""
        return self.draw()


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


Block = Paragraph | Heading | Missing | Blank | Words | Table | Picture | Code


@dataclass(frozen=True)
class Fact:
    """A headline figure: what it is, its value, and what qualifies it."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report; `front` stands before the sections."""

    title: str
    lead: Paragraph
    facts: Sequence[Fact]
    sections: Sequence[Section]
    footer: Paragraph = field(default_factory=Paragraph)
    front: Sequence[Block] = ()

    def pictures(self) -> list[Picture]:
        """Every picture, in order."""
        return [block for block in self._blocks() if isinstance(block, Picture)]

    def blanks(self) -> list[Blank]:
        """Every open question, in order."""
        return [block for block in self._blocks() if isinstance(block, Blank)]

    def _blocks(self) -> Iterator[Block]:
        yield from self.front
        for section in self.sections:
            yield from section.blocks


Held = TypeVar("Held")


def changed(held: Held, change: Callable[[str], str]) -> Held:
    """A document, or a part of one, with `change` applied to every text in it; drawings stay."""
    if isinstance(held, str):
        return type(held)(change(held))
    if isinstance(held, list | tuple):
        return type(held)(changed(each, change) for each in held)
    if isinstance(held, Paragraph):
        return type(held)(*changed(held.parts, change))
    if is_dataclass(held) and not isinstance(held, type):
        return replace(held, **{each.name: changed(getattr(held, each.name), change) for each in fields(held)})
    return held


_LINES = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_UNSHOWABLE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def clean(text: str, *, lines: bool = False) -> str:
    """Text that can be shown: on one line unless `lines`, without control characters, lone surrogates, or marks that
    reorder what stands around them."""
    text = _LINES.sub("\n" if lines else " ", text)
    return _UNSHOWABLE.sub("\ufffd", text)
