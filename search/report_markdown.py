"""A document as GitHub's Markdown. Pure: values in, text out; all escaping for Markdown is done here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from search.report_pages import (
    Blank,
    Block,
    Code,
    Document,
    Heading,
    Missing,
    Mono,
    Paragraph,
    Picture,
    Table,
    Words,
    clean,
)

TO_FILL_IN = "TO FILL IN"
_PUNCTUATION = re.compile(r"([\\`*\[\]<>|~&$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINE_START = re.compile(r"\A\d*(?=(?:[-+#=.)])(?:[-+#=\s]|\Z))")  # of a list, a heading or a rule


def to_markdown(document: Document, pictures: str) -> str:
    """GitHub's Markdown; the pictures are expected as NAME.png in the folder `pictures`, beside the file."""
    parts = [f"# {_inline(document.title)}", _md_parts(document.lead.parts)]
    if document.facts:
        rows = [(fact.label, fact.value, fact.detail) for fact in document.facts]
        parts.append(_md_table(Table(("", "", ""), rows, "lll")))
    parts += [_md_block(block, pictures) for block in document.front]
    if blanks := document.blanks():
        parts.append(f"Search for {TO_FILL_IN}: open are " + ", ".join(_code(blank.key) for blank in blanks) + ".")
    for section in document.sections:
        parts.append(f"## {_inline(section.title)}")
        parts += [_md_block(block, pictures) for block in section.blocks]
    parts.append(_md_parts(document.footer.parts))
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_block(block: Block, pictures: str) -> str:
    match block:
        case Paragraph():
            return _md_parts(block.parts)
        case Missing():
            return f"> {_line(_inline(block.what))} Next: {_code(block.command)}"
        case Heading():
            return f"### {_inline(block.text)}"
        case Blank():
            where = f"Write it as {_code(block.key)} in {_code(block.where)}, and make the report again."
            return f"> **{TO_FILL_IN}:** {_inline(block.question)} {where}"
        case Words():
            said = [f"**{_inline(block.question).strip()}**", *(_line(_inline(each)) for each in block.paragraphs)]
            return "\n>\n".join(f"> {each}" for each in said)
        case Code():
            return _fenced(clean(block.text, lines=True))
        case Picture():
            return (
                f"![{_inline(block.title)}]({pictures}/{block.name}.png)\n\n"
                f"*{_inline(block.title)}.* {_inline(block.caption)}"
            )
        case Table():
            return _md_table(block)


def _md_table(table: Table) -> str:
    ruler = ["---:" if side == "r" else "---" for side in table.align]
    rows = [[_md_cell(cell, strong=number == table.strong) for cell in row] for number, row in enumerate(table.rows)]
    lines = [[_md_cell(cell) for cell in table.head], ruler, *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{_line(_inline(table.caption))}\n\n{text}" if table.caption else text


def _md_cell(cell: str, *, strong: bool = False) -> str:
    text = _code(cell).replace("|", "\\|") if isinstance(cell, Mono) else _inline(cell)
    return f"**{text}**" if strong and text.strip() else text


def _md_parts(parts: Sequence[str]) -> str:
    return _line("".join(_code(part) if isinstance(part, Mono) else _inline(part) for part in parts))


def _line(text: str) -> str:
    """Text that may stand at the beginning of a line, and begins nothing but a paragraph there."""
    return _LINE_START.sub(lambda match: match[0] + "\\", text.lstrip())


def _inline(text: str) -> str:
    return _PUNCTUATION.sub(lambda match: "\\" + match[0], clean(text))


def _code(text: str) -> str:
    content = clean(text).strip()
    if not content:
        return ""
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", content)), default=0))
    space = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{ticks}{space}{content}{space}{ticks}"


def _fenced(text: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}\n{text}\n{ticks}"
