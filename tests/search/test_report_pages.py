"""Documents as HTML and as Markdown: whatever they contain comes out as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from search.report_html import to_html
from search.report_markdown import to_markdown
from search.report_pages import (
    Blank,
    Code,
    Document,
    Fact,
    Forms,
    Heading,
    Missing,
    Mono,
    Paragraph,
    Picture,
    Section,
    Table,
    Words,
    clean,
)

NASTY = st.sampled_from(
    ["<script>alert(1)</script>", "</code>", "<!--", "-->", "&amp;", "&#60;", "|", "||", "\\|", "\\", "`", "``", "```",
     "*", "**", "_", "__a__", "[a](http://x)", "![a](b)", "<http://x>", "http://x.example", "# ", "- ", "1. ", "> ",
     "---", "===", "~~", "$x$", "\n", "\r\n", "\u2028", "\x00", "\x1b[31m", "\ud800", "\u202e", "'", '"', "{{", "]]>"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=30), st.lists(NASTY | st.text(max_size=3), max_size=5).map("".join))


def document(*blocks: object, title: str = "Title") -> Document:
    return Document(title, Paragraph("lead"), [], [Section("Part", blocks)])  # type: ignore[arg-type]


class Seen(HTMLParser):
    """What a browser would show: the text of each element of interest, and every tag."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data


def rendered(markdown: str) -> Seen:
    return Seen(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


def even(text: str) -> str:
    """Spaces as a page shows them."""
    return " ".join(re.sub(r"[ \t\n]+", " ", text).split(" ")).strip()


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_html_shows_what_it_was_given(title: str, cell: str, mono: str) -> None:
    blocks = [Table(("a", "b"), [(cell, Mono(mono))], "lr"), Paragraph(cell, Mono(mono)), Missing(cell, mono)]
    page = to_html(document(*blocks, title=title))
    seen = Seen(page)
    assert even(seen.texts["h1"][0]) == even(clean(title))
    assert [even(text) for text in seen.texts["td"]] == [even(clean(cell)), even(clean(mono))]
    assert "script" not in seen.tags
    assert set(seen.tags) == set(Seen(to_html(document(*[type(b)(*_plain(b)) for b in blocks]))).tags)  # type: ignore[arg-type]
    page.encode("utf-8")


def _plain(block: object) -> tuple[object, ...]:
    if isinstance(block, Table):
        return (("a", "b"), [("x", Mono("y"))], "lr")
    return ("x", Mono("y")) if isinstance(block, Paragraph) else ("x", "y")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_markdown_tables_show_what_they_were_given(rows: list[tuple[str, str]]) -> None:
    table = Table(("a", "b"), [(cell, Mono(mono)) for cell, mono in rows], "lr")
    seen = rendered(to_markdown(document(table), "files"))
    wanted = [even(clean(text)) for row in rows for text in row]
    assert [even(text) for text in seen.texts["td"]] == wanted
    assert set(seen.tags) <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}


@settings(max_examples=150, deadline=None)
@given(TEXTS.filter(lambda text: even(clean(text)) != ""), TEXTS)
def test_markdown_paragraphs_show_what_they_were_given(text: str, code: str) -> None:
    seen = rendered(to_markdown(document(Paragraph(text), Code(code), Missing(text, "nightshift start")), "files"))
    shown = [even(paragraph) for paragraph in seen.texts["p"]]
    assert shown[0] == "lead"
    assert shown[1] == even(clean(text))
    assert shown[2] == even(f"{clean(text)} Next: nightshift start")
    assert set(seen.tags) <= {"h1", "h2", "p", "pre", "code", "blockquote"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("learning_rate", "learning_rate"),
        ("_x_", r"\_x\_"),
        ("0.8 ± 0.1", "0.8 ± 0.1"),
        ("a|b", r"a\|b"),
        ("- a", r"\- a"),
        ("12. a", r"12\. a"),
    ],
)
def test_markdown_escapes_no_more_than_it_must(text: str, shown: str) -> None:
    assert f"\n{shown}\n" in to_markdown(document(Paragraph(text)), "files")


def test_headline_figures_come_first() -> None:
    full = Document("T", Paragraph("lead"), [Fact("Base", "0.05", "± 0.01")], [Section("Part", [])])
    assert '<dd class="value">0.05</dd>' in to_html(full)
    assert "| Base | 0.05 | ± 0.01 |" in to_markdown(full, "files")


def test_a_picture_stands_in_the_page_and_beside_the_markdown() -> None:
    forms = Forms(svg="<svg></svg>", paths=b"", png=b"")
    picture = Picture(name="history", title="Scores", caption="of <all>", draw=lambda: forms)
    assert "<svg></svg>" in to_html(document(picture))
    assert "of &lt;all&gt;" in to_html(document(picture))
    assert "![Scores](report_files/history.png)" in to_markdown(document(picture), "report_files")
    assert document(picture).pictures() == [picture]


def test_numbers_are_set_to_the_right_and_the_best_row_stands_out() -> None:
    table = Table(("name", "n"), [("a", "1"), ("b", "2")], "lr", strong=1)
    assert '<tr class="strong"><td>b</td><td class="r">2</td></tr>' in to_html(document(table))
    shown = to_markdown(document(table), "files")
    assert "| --- | ---: |" in shown
    assert "| **b** | **2** |" in shown


def test_a_picture_is_drawn_once_and_not_before_it_is_needed() -> None:
    drawn: list[int] = []

    def draw() -> Forms:
        drawn.append(1)
        return Forms("<svg></svg>", b"", b"")

    picture = Picture("history", "Scores", "", draw)
    to_markdown(document(picture), "files")
    assert drawn == []
    assert to_html(document(picture)) == to_html(document(picture))
    assert drawn == [1]


def test_an_open_question_is_easy_to_find() -> None:
    asked = document(Heading("Why"), Blank("base_model", "Why <this> one?", "report_answers.toml"))
    assert [blank.key for blank in asked.blanks()] == ["base_model"]
    shown = to_markdown(asked, "files")
    assert "### Why" in shown
    assert r"> **TO FILL IN:** Why \<this\> one? Write it as `base_model` in `report_answers.toml`" in shown
    assert "Search for TO FILL IN: open are `base_model`." in shown
    page = to_html(asked)
    assert '<a href="#ask-base-model">base_model</a>' in page
    assert '<div class="blank" id="ask-base-model"><b>To fill in</b>Why &lt;this&gt; one?' in page
    assert "<h3>Why</h3>" in page


@settings(max_examples=60, deadline=None)
@given(TEXTS.filter(lambda text: even(clean(text)) != ""))
def test_a_persons_words_are_shown_as_they_are(answer: str) -> None:
    words = document(Words("Why this?", [answer, answer]))
    seen = rendered(to_markdown(words, "files"))
    assert [even(text) for text in seen.texts["p"][1:4]] == ["Why this?", *[even(clean(answer))] * 2]
    assert set(seen.tags) <= {"h1", "h2", "p", "blockquote", "strong"}
    page = Seen(to_html(words))
    assert [even(text) for text in page.texts["p"][1:3]] == [even(clean(answer))] * 2
    assert "script" not in page.tags
