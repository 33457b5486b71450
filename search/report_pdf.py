"""A document as a PDF: A4 pages with numbers, contents and bookmarks; text that can be searched, pictures as vectors.

Set by fpdf2 (LGPL-3.0, maintained, pure Python; all that it needs is among our dependencies already). Of the others,
reportlab reads paragraphs as markup, in which what a report contains would have to be escaped, and takes no SVG;
WeasyPrint needs Pango, which no wheel has; matplotlib's PdfPages sets no text in lines. The fonts are the DejaVu ones
that matplotlib ships. The same document gives the same bytes.

Imports matplotlib and fpdf, so import it late.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import matplotlib
from fpdf import FPDF, XPos, YPos
from fpdf.outline import OutlineSection

from search import report_pdf_table
from search.report_canvas import PAPER
from search.report_pages import (
    Blank,
    Block,
    Code,
    Document,
    Fact,
    Heading,
    Missing,
    Mono,
    Paragraph,
    Picture,
    Table,
    Words,
    clean,
)

MARGIN = 18.0  # mm, as all lengths here
TEXT, SMALL, CODE = 9.5, 8.0, 7.5  # points
LINE = 1.5  # of the font's size
MM = 25.4 / 72  # of a point
WASH = "#f6f7f9"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # the file says nothing of when it was made
SANS, MONO = "sans", "mono"
FONTS = {
    (SANS, ""): "DejaVuSans.ttf",
    (SANS, "B"): "DejaVuSans-Bold.ttf",
    (MONO, ""): "DejaVuSansMono.ttf",
    (MONO, "B"): "DejaVuSansMono-Bold.ttf",
}


def to_pdf(document: Document) -> bytes:
    """The document as a file."""
    with _quiet():
        return bytes(_Paper(document).written())


@contextmanager
def _quiet() -> Any:
    """Without fontTools' and fpdf2's remarks on what they leave out of fonts and pictures."""
    loggers = [logging.getLogger(name) for name in ("fontTools", "fpdf")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class _Paper(FPDF):
    """The pages of one document."""

    def __init__(self, document: Document) -> None:
        super().__init__(format="A4", unit="mm")
        self.document = document
        folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
        for (family, style), name in FONTS.items():
            self.add_font(family, style, folder / name)
        self.set_margins(MARGIN, MARGIN)
        self.c_margin = 0
        self.set_auto_page_break(True, MARGIN)
        self.set_creation_date(EPOCH)
        self.set_title(clean(document.title))
        self.set_producer("Nightshift")

    def file_id(self) -> str:
        """None that changes."""
        return ""

    def written(self) -> bytearray:
        """The bytes of the file."""
        self.add_page()
        self._title()
        for section in self.document.sections:
            self._heading(section.title, 15.0, level=0)
            self.blocks(section.blocks)
        return self.output()

    def footer(self) -> None:
        """On every page: what it is of, and its number."""
        self.set_y(-12)
        self._font(SANS, "", 7.5, PAPER.muted)
        half = self.epw / 2
        self.cell(half, 4, self.shown(self.document.title), new_x=XPos.RIGHT, new_y=YPos.TOP)
        self.cell(half, 4, str(self.page_no()), align="R")

    # Text

    def _font(self, family: str, style: str, size: float, colour: str) -> None:
        self.set_font(family, style, size)
        self.set_text_color(colour)

    def shown(self, text: str, family: str = SANS, *, lines: bool = False) -> str:
        """Text with a mark in place of every character that the font does not have; a measure stays on one line."""
        known = self._characters(family)
        even = clean(text, lines=lines).expandtabs(4).replace(" ± ", "\u00a0±\u00a0")
        return "".join(c if ord(c) in known or c == "\n" else "\ufffd" for c in even)

    @functools.cache  # noqa: B019 (one object a document)
    def _characters(self, family: str) -> frozenset[int]:
        font: Any = self.fonts[family]
        return frozenset(font.cmap)

    def parts(self, parts: Iterable[str], size: float = TEXT, colour: str = PAPER.ink) -> None:
        """Running text, with code in it."""
        for part in parts:
            family = MONO if isinstance(part, Mono) else SANS
            self._font(family, "", size * (0.94 if family == MONO else 1.0), colour)
            self.write(size * LINE * MM, self.shown(part, family))
        self.ln(size * LINE * MM + 2.0)

    def _heading(self, text: str, size: float, level: int) -> None:
        if self.will_page_break(size * MM + 45):
            self.add_page()
        else:
            self.ln(6 if level == 0 else 3)
        if level == 0:
            self.set_draw_color(PAPER.line)
            self.line(self.l_margin, self.y, self.w - self.r_margin, self.y)
            self.ln(4)
        self.start_section(self.shown(text), level)
        self._font(SANS, "B", size, PAPER.ink)
        self.multi_cell(0, size * 1.25 * MM, self.shown(text), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(2.5)

    def _title(self) -> None:
        self._font(SANS, "B", 22, PAPER.ink)
        self.multi_cell(0, 10, self.shown(self.document.title), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(2)
        self.parts(self.document.lead.parts, 10.5, PAPER.muted)
        if self.document.facts:
            self._facts(self.document.facts)
        self.blocks(self.document.front)
        if blanks := self.document.blanks():
            keys = ", ".join(blank.key for blank in blanks)
            self.boxed([("", f"To fill in: {keys}.")], PAPER.warm)
        self.parts(self.document.footer.parts, SMALL, PAPER.muted)
        self.insert_toc_placeholder(_contents)

    def _facts(self, facts: Sequence[Fact]) -> None:
        width, top = self.epw / len(facts), self.y + 1
        self.set_draw_color(PAPER.line)
        for place, fact in enumerate(facts):
            x = self.l_margin + place * width
            self.rect(x, top, width, 23)
            for text, style, size, colour, y in (
                (fact.label, "", SMALL, PAPER.muted, 2),
                (fact.value, "B", 15.0, PAPER.ink, 6.5),
                (fact.detail, "", 7.0, PAPER.muted, 13.5),
            ):
                self._font(SANS, style, size, colour)
                self.set_xy(x + 2, top + y)
                self.multi_cell(width - 4, size * 1.3 * MM, self.shown(text), align="L")
        self.set_xy(self.l_margin, top + 23 + 4)

    # Blocks

    def blocks(self, blocks: Iterable[Block]) -> None:
        """One under the other; a heading on the page of what it is above."""
        following = [*blocks]
        for block, after in zip_longest(following, following[1:]):
            if isinstance(block, Heading) and isinstance(after, Picture):
                self._room(self._height(after) + 30)
            self._block(block)

    def _room(self, height: float) -> None:
        """Go on at a new page, unless there is so much room on this one."""
        if self.will_page_break(min(height, self.eph - 1)):
            self.add_page()

    def _height(self, picture: Picture) -> float:
        width, height = _size(picture.forms.paths)
        return height * min(self.epw / width, (self.eph - 20) / height)

    def _block(self, block: Block) -> None:
        match block:
            case Paragraph():
                self.parts(block.parts)
            case Heading():
                self._heading(block.text, 11.0, level=1)
            case Missing():
                self.boxed([("", block.what), ("mono", f"Next: {block.command}")], PAPER.warm, fill=WASH)
            case Blank():
                where = f"Write it as {block.key} in {block.where}, and make the report again."
                lines = [("label", "TO FILL IN"), ("", block.question), ("small", where)]
                self.boxed(lines, PAPER.warm, dashed=True)
            case Words():
                self.boxed([("question", block.question), *(("", text) for text in block.paragraphs)], PAPER.accent)
            case Code():
                self.boxed([("mono", block.text)], None, fill=WASH)
            case Picture():
                self._picture(block)
            case Table():
                report_pdf_table.table(self, block)

    def boxed(
        self, lines: Sequence[tuple[str, str]], edge: str | None, *, fill: str | None = None, dashed: bool = False
    ) -> None:
        """Lines, each of a kind, beside an edge of that colour or, dashed, inside a frame of it."""
        self._room(16)
        page, top = self.page, self.y
        self.set_y(top + 0.7)
        for kind, text in lines:
            self._boxed_line(kind, text, fill)
        bottom = self.y + 1.0
        if self.page == page:
            self._edge(top, bottom, edge, dashed)
        self.set_fill_color(0)  # what a table takes for none
        self.set_y(bottom + 3)

    def _boxed_line(self, kind: str, text: str, fill: str | None) -> None:
        family = MONO if kind == "mono" else SANS
        bold = "B" if kind in ("label", "question") else ""
        size = {"mono": CODE, "small": SMALL, "label": 7.5, "question": SMALL}.get(kind, TEXT)
        colour = {"label": PAPER.warm, "question": PAPER.accent, "small": PAPER.muted}.get(kind, PAPER.ink)
        self._font(family, bold, size, colour)
        if fill:
            self.set_fill_color(fill)
        self.set_xy(self.l_margin + 4, self.y + (0.0 if fill else 0.8))
        shown = self.shown(text, family, lines=family == MONO)
        height = size * LINE * MM
        self.multi_cell(self.epw - 6, height, shown, align="L", fill=bool(fill), new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def _edge(self, top: float, bottom: float, edge: str | None, dashed: bool) -> None:
        if edge is None:
            return
        self.set_draw_color(edge)
        if dashed:
            self.set_dash_pattern(dash=1.2, gap=0.9)
            self.rect(self.l_margin, top, self.epw, bottom - top, round_corners=True, corner_radius=1.5)
            self.set_dash_pattern()
            return
        self.set_line_width(0.8)
        self.line(self.l_margin + 0.4, top + 1, self.l_margin + 0.4, bottom)
        self.set_line_width(0.2)

    def _picture(self, picture: Picture) -> None:
        height, caption = self._height(picture), f"{picture.title}. {picture.caption}"
        self._room(height + 12)
        self.image(io.BytesIO(picture.forms.paths), h=height, alt_text=self.shown(caption))
        self._font(SANS, "", SMALL, PAPER.muted)
        self.multi_cell(0, SMALL * 1.4 * MM, self.shown(caption), align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(4)


def _size(svg: bytes) -> tuple[float, float]:
    """Width and height of a picture, in whatever unit."""
    head = svg[: svg.index(b">", svg.index(b"<svg "))]
    _, _, width, height = head.split(b'viewBox="')[1].split(b'"')[0].split()
    return float(width), float(height)


def _contents(paper: Any, outline: Sequence[OutlineSection]) -> None:
    """The sections and their pages, in what is left of the first page."""
    paper.set_y(paper.y + 4)
    for entry in outline:
        if entry.level == 0:
            paper._font(SANS, "", TEXT, PAPER.ink)
            link: Any = paper.add_link(page=entry.page_number)
            paper.cell(paper.epw - 12, 6.2, entry.name, link=link, new_x=XPos.RIGHT, new_y=YPos.TOP)
            kind: Literal["R"] = "R"
            paper.cell(12, 6.2, str(entry.page_number), align=kind, link=link, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
