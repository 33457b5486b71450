"""A document as one self-contained HTML page. Pure: values in, text out; all escaping for HTML is done here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

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
    Section,
    Table,
    Words,
    clean,
)

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2530;--muted:#687282;--line:#dfe3e8;--wash:#f6f7f9;--accent:#3556c9;
--warm:#c05a12;--strong:#eef2fd}
@media(prefers-color-scheme:dark){:root{--paper:#11151b;--ink:#e4e8ee;--muted:#97a1b0;--line:#2c343f;--wash:#181d25;
--accent:#8ba6ff;--warm:#f0a060;--strong:#1b2542}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:58rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;letter-spacing:-.01em;margin:3rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:2rem 0 .5rem}
p{margin:.75rem 0;max-width:44rem;overflow-wrap:anywhere}
.lead{color:var(--muted);font-size:1.05rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1.5rem 0 0;font-size:.9rem}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1px;margin:1.75rem 0 0;padding:0;
background:var(--line);border:1px solid var(--line);border-radius:.5rem;overflow:hidden}
.facts div{background:var(--paper);padding:.9rem 1rem}
.facts dt{color:var(--muted);font-size:.82rem}
.facts dd{margin:0}.facts .value{font-size:1.6rem;font-weight:600;letter-spacing:-.02em;line-height:1.3;
font-variant-numeric:tabular-nums}
.facts .detail{color:var(--muted);font-size:.82rem;line-height:1.4}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.88rem;line-height:1.4;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);font-size:.85rem;padding:0 0 .4rem}
th{font-weight:600;color:var(--muted);border-bottom:1px solid var(--muted);vertical-align:bottom}
th,td{padding:.32rem .9rem .32rem 0;text-align:left}
th:last-child,td:last-child{padding-right:.4rem}
th:first-child,td:first-child{padding-left:.4rem}
td{border-bottom:1px solid var(--line);vertical-align:top;max-width:26rem;overflow-wrap:break-word}
td.r,td:first-child{white-space:nowrap}.r{text-align:right}
.wide{font-size:.76rem}.wide th,.wide td{padding-right:.5rem}
tr.strong td{background:var(--strong);font-weight:600}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.88em}
td code,p code{overflow-wrap:anywhere}
pre{background:var(--wash);border-radius:.4rem;padding:.8rem 1rem;overflow-x:auto;line-height:1.5}
.missing{background:var(--wash);border-left:3px solid var(--warm);border-radius:0 .4rem .4rem 0;padding:.6rem 1rem}
.blank{border:2px dashed var(--warm);border-radius:.4rem;padding:.6rem 1rem;margin:1rem 0;max-width:44rem}
.blank b,.words b{display:block;font-size:.78rem;letter-spacing:.06em;text-transform:uppercase;color:var(--warm)}
.blank span{display:block;color:var(--muted);font-size:.85rem}
.words{border-left:3px solid var(--accent);padding:.1rem 1rem;margin:1rem 0;max-width:44rem}
.words b{color:var(--accent);text-transform:none;letter-spacing:0;font-size:.85rem}
.words p{margin:.4rem 0}
figure{margin:1.5rem 0}
figure .scroll{margin:0}
figure svg{display:block;width:100%;min-width:34rem;height:auto}
figure svg text{font-family:inherit}
figcaption{color:var(--muted);font-size:.85rem;max-width:44rem;margin-top:.35rem}
figcaption b{color:var(--ink);font-weight:600}
footer{margin-top:3rem;color:var(--muted);font-size:.85rem}
@media print{nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}.scroll{overflow:visible}}
"""
WIDE = 8  # columns from which on a table is set smaller, so that the page has room for it
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def to_html(document: Document) -> str:
    """One self-contained page: no script, no network, and a policy that forbids both."""
    sections = "\n".join(_html_section(section) for section in document.sections)
    links = "".join(f'<a href="#{_slug(s.title)}">{_text(s.title)}</a>' for s in document.sections)
    facts = "".join(_html_fact(fact) for fact in document.facts)
    front = "\n".join(_html_block(block) for block in document.front)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{_text(document.title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{_text(document.title)}</h1>
<p class="lead">{_html_parts(document.lead.parts)}</p>
{f'<dl class="facts">{facts}</dl>' if facts else ""}
{front}
{_html_open(document)}
<nav aria-label="Sections">{links}</nav>
{sections}
<footer>{_html_parts(document.footer.parts)}</footer>
</main>
</body>
</html>
"""


def _html_open(document: Document) -> str:
    """Where questions are still open."""
    keys = ", ".join(f'<a href="#ask-{_slug(blank.key)}">{_text(blank.key)}</a>' for blank in document.blanks())
    return f'<p class="missing">To fill in: {keys}.</p>' if keys else ""


def _html_fact(fact: Fact) -> str:
    value, detail = _text(fact.value), _text(fact.detail)
    return f'<div><dt>{_text(fact.label)}</dt><dd class="value">{value}</dd><dd class="detail">{detail}</dd></div>'


def _html_section(section: Section) -> str:
    blocks = "\n".join(_html_block(block) for block in section.blocks)
    return f'<section id="{_slug(section.title)}">\n<h2>{_text(section.title)}</h2>\n{blocks}\n</section>'


def _html_block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{_html_parts(block.parts)}</p>"
        case Missing():
            return f'<p class="missing">{_text(block.what)} Next: <code>{_text(block.command)}</code></p>'
        case Heading():
            return f"<h3>{_text(block.text)}</h3>"
        case Blank():
            return _html_blank(block)
        case Words():
            said = "".join(f"<p>{_text(paragraph)}</p>" for paragraph in block.paragraphs)
            return f'<div class="words"><b>{_text(block.question)}</b>{said}</div>'
        case Code():
            return f"<pre><code>{_text(block.text, lines=True)}</code></pre>"
        case Picture():
            title = f'<b id="{block.name}-title">{_text(block.title)}.</b>'
            return (
                f'<figure><div class="scroll">{block.forms.svg}</div>'
                f"<figcaption>{title} {_text(block.caption)}</figcaption></figure>"
            )
        case Table():
            return _html_table(block)


def _html_blank(blank: Blank) -> str:
    key, file = f"<code>{_text(blank.key)}</code>", f"<code>{_text(blank.where)}</code>"
    where = f"<span>Write it as {key} in {file}, and make the report again.</span>"
    return f'<div class="blank" id="ask-{_slug(blank.key)}"><b>To fill in</b>{_text(blank.question)}{where}</div>'


def _html_table(table: Table) -> str:
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    wide = ' class="wide"' if len(table.head) >= WIDE else ""
    head = "".join(_html_cell("th", cell, side) for cell, side in zip(table.head, table.align, strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(_html_cell("td", cell, side) for cell, side in zip(row, table.align, strict=True))
        rows.append(f'<tr class="strong">{cells}</tr>' if number == table.strong else f"<tr>{cells}</tr>")
    body = "\n".join(rows)
    inner = f"{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table{wide}>{inner}</table></div>'


def _html_cell(tag: str, cell: str, side: str) -> str:
    attributes = ' class="r"' if side == "r" else ""
    if tag == "th":
        attributes += ' scope="col"'
    text = _html_parts([cell])
    return f"<{tag}{attributes}>{_breakable(text) if tag == 'th' else text}</{tag}>"


def _breakable(name: str) -> str:
    """A heading that may go on in another line inside a long name: learning_<wbr>rate."""
    return re.sub(r"(?<=\w)([_.])(?=\w)", r"\1<wbr>", name)


def _html_parts(parts: Iterable[str]) -> str:
    return "".join(f"<code>{_text(part)}</code>" if isinstance(part, Mono) else _text(part) for part in parts)


def _text(text: str, *, lines: bool = False) -> str:
    return html.escape(clean(text, lines=lines), quote=True)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
