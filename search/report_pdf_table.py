"""A table on the pages of a PDF: columns as wide as their text wants, a smaller font or a page on its side for many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fpdf.fonts import FontFace

from search.report_canvas import PAPER
from search.report_pages import Mono, Table

SIZES = (8.0, 7.0, 6.2)  # points, the largest that has room
PADDING = 1.2  # mm, left and right of a cell
MM = 25.4 / 72
STRONG = "#eef2fd"
SHORT = 100.0  # mm, of a table that is kept on one page
LONGEST_WORD = 24  # characters that are kept together; more may be broken
EASY = 1.6  # of the width there is: from there on, columns are squeezed too much, and a smaller font is tried


def table(paper: Any, block: Table) -> None:
    """Draw it under what is there, over as many pages as it takes, its head on each."""
    size, sideways = _fit(paper, block)
    if sideways:
        paper.add_page(orientation="L")
    elif paper.will_page_break(_room(paper, block, size)):
        paper.add_page()
    if block.caption:
        paper.set_font("sans", "", 8.0)
        paper.set_text_color(PAPER.muted)
        paper.multi_cell(0, 8.0 * 1.4 * MM, paper.shown(block.caption), align="L", new_x="LMARGIN", new_y="NEXT")
        paper.ln(1)
    _draw(paper, block, size)
    paper.ln(4)
    if sideways:
        paper.add_page(orientation="P")


def _room(paper: Any, block: Table, size: float) -> float:
    """What has to be left of a page to begin on it: all of a short table, a few rows of a long one."""
    wanted, least = _columns(paper, block, size)
    columns = widths(wanted, least, paper.epw)
    lines = 0
    for cells in (block.head, *block.rows):
        have = (
            paper.get_string_width(paper.shown(cell)) / (width - 2 * PADDING)
            for cell, width in zip(cells, columns, strict=True)
        )
        lines += max(math.ceil(max(0.9 * each, 0.1)) for each in have)
    whole = (8 if block.caption else 0) + lines * size * 1.35 * MM + (1 + len(block.rows)) * 1.4
    return whole if whole <= SHORT else 28.0


def _fit(paper: Any, block: Table) -> tuple[float, bool]:
    """The font's size, and whether the page has to be turned."""
    for size in SIZES:
        _, least = _columns(paper, block, size)
        if sum(least) <= paper.epw and _comfortable(paper, block, size):
            return size, False
    _, least = _columns(paper, block, SIZES[-1])
    return (SIZES[-1], False) if sum(least) <= paper.epw else (SIZES[1], True)


def _comfortable(paper: Any, block: Table, size: float) -> bool:
    wanted, _ = _columns(paper, block, size)
    return len(block.head) < 6 or sum(wanted) <= EASY * paper.epw


def _columns(paper: Any, block: Table, size: float) -> tuple[list[float], list[float]]:
    """For each column the width that its longest cell wants, and the least, that of its longest word."""
    paper.set_font("sans", "B", size)
    wanted, least = [], []
    for cells in zip(block.head, *block.rows, strict=True):
        texts = [paper.shown(cell) for cell in cells]
        words = [word[:LONGEST_WORD] for text in texts for word in text.split(" ")] or [""]
        wanted.append(max(paper.get_string_width(text) for text in texts) + 2 * PADDING + 0.5)
        least.append(max(paper.get_string_width(word) for word in words) + 2 * PADDING + 0.5)
    return wanted, least


def widths(wanted: Sequence[float], least: Sequence[float], room: float) -> list[float]:
    """Columns within `room`: as wanted where there is room, else each its least and its part of what is left."""
    if sum(wanted) <= room:
        return list(wanted)
    if sum(least) >= room:
        return [room * each / sum(least) for each in least]
    beyond = [max(0.0, want - need) for want, need in zip(wanted, least, strict=True)]
    left, level = room - sum(least), _level(beyond, room - sum(least))
    given = [min(each, level) for each in beyond]
    assert sum(given) <= left * 1.001
    return [need + more for need, more in zip(least, given, strict=True)]


def _level(beyond: Sequence[float], left: float) -> float:
    """What every column may have at most beyond its least, so that all together have `left`: short ones get all."""
    rest = sorted(beyond)
    for place, each in enumerate(rest):
        if each * (len(rest) - place) >= left:
            return left / (len(rest) - place)
        left -= each
    return max(rest, default=0.0)


def _draw(paper: Any, block: Table, size: float) -> None:
    wanted, least = _columns(paper, block, size)
    columns = widths(wanted, least, paper.epw - 0.01)
    paper.set_font("sans", "", size)
    paper.set_text_color(PAPER.ink)
    paper.set_draw_color(PAPER.line)
    head = FontFace(family="sans", emphasis="BOLD", size_pt=size, color=PAPER.muted)
    with paper.table(
        width=min(sum(columns), paper.epw),
        col_widths=tuple(columns),
        align="LEFT",
        text_align=tuple("RIGHT" if side == "r" else "LEFT" for side in block.align),
        borders_layout="HORIZONTAL_LINES",
        headings_style=head,
        line_height=size * 1.35 * MM,
        padding=(0.7, PADDING),
        first_row_as_headings=True,
        repeat_headings=1,
    ) as drawn:
        _row(paper, drawn.row(), block.head, size, strong=False)
        for number, cells in enumerate(block.rows):
            _row(paper, drawn.row(), cells, size, strong=number == block.strong)


def _row(paper: Any, row: Any, cells: Sequence[str], size: float, *, strong: bool) -> None:
    for cell in cells:
        family = "mono" if isinstance(cell, Mono) else "sans"
        style = FontFace(
            family=family,
            emphasis="BOLD" if strong else None,
            size_pt=size * (0.94 if family == "mono" else 1.0),
            fill_color=STRONG if strong else None,
        )
        row.cell(paper.shown(cell, family), style=None if family == "sans" and not strong else style)
