"""The report as a PDF: whatever it contains can be set, the same each time, and tables stay within the page."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from search.report_canvas import Palette, picture, single
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
    Section,
    Table,
    Words,
)
from search.report_pdf import to_pdf
from search.report_pdf_table import widths

WIDTHS = st.lists(st.tuples(st.floats(1, 60), st.floats(0, 200)), min_size=1, max_size=14)


def drawn(palette: Palette) -> Figure:
    figure, axes = single(palette, 2.0)
    axes.plot([0, 1], [0, 1], color=palette.accent)
    return figure


def document(*blocks: Block) -> Document:
    facts = [Fact("Base", "0.05", "± 0.01")]
    return Document("Study ÄÖ 研究", Paragraph("lead"), facts, [Section("Part", [*blocks]), Section("Other", [])])


def pages(pdf: bytes) -> tuple[int, int]:
    """How many there are, and how many of them lie on their side."""
    return len(re.findall(rb"/Type /Page\n", pdf)), pdf.count(b"/MediaBox [0 0 841.89 595.28]")


def test_every_kind_of_block_can_be_set_and_comes_out_the_same_twice() -> None:
    long = Table(("module", "n"), [(Mono(f"layer_{n}"), str(n)) for n in range(90)], "lr", strong=3, caption="Long")
    blocks: list[Block] = [
        Heading("What"),
        picture("one", "One", "A line.", drawn),
        long,
        Code("a\tb\n" * 80),
        Missing("Not there.", "nightshift report"),
        Blank("base_model", "Why?", "report_answers.toml"),
        Words("Why?", ["Because.", "And " * 400]),
    ]
    first = to_pdf(document(*blocks))
    assert first.startswith(b"%PDF-")
    assert first == to_pdf(document(*blocks))
    assert pages(first) > (4, 0)
    assert b"/Outlines" in first


def test_characters_that_no_font_has_are_no_obstacle() -> None:
    odd = "研究 \U0001f600 \x00 \ud800 \u202e <b>&amp;</b> ** __ ± 0.1 ± 0.2"
    blocks: list[Block] = [Paragraph(odd, Mono(odd)), Code(odd), Missing(odd, odd), Heading(odd)]
    pdf = to_pdf(document(*blocks, Table((odd, "b"), [(odd, Mono(odd))], "lr", caption=odd)))
    assert pdf.startswith(b"%PDF-")


def test_a_table_of_very_many_columns_turns_the_page() -> None:
    names = [f"hyperparameter_{n}" for n in range(16)]
    table = Table(names, [["0.000123"] * len(names)] * 3, "r" * len(names))
    assert pages(to_pdf(document(Table(names[:3], [["1"] * 3], "rrr")))) == (2, 0)
    assert pages(to_pdf(document(table))) == (4, 1)


@settings(max_examples=200)
@given(WIDTHS, st.floats(50, 300))
def test_columns_stay_within_the_page(columns: list[tuple[float, float]], room: float) -> None:
    least = [need for need, _ in columns]
    wanted = [need + more for need, more in columns]
    given_ = widths(wanted, least, room)
    assert sum(given_) <= room * 1.001
    assert all(have <= want * 1.001 for have, want in zip(given_, wanted, strict=True))
    if sum(wanted) <= room:
        assert given_ == wanted
    elif sum(least) <= room:
        assert all(have >= need * 0.999 for have, need in zip(given_, least, strict=True))
        assert sum(given_) >= room * 0.999
