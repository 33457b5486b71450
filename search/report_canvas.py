"""What the report's pictures are drawn on: colours, axes, and each picture three times, as inline SVG that follows the
light or dark colours of the page, as SVG of nothing but paths for the PDF, and as PNG for Markdown.

Imports matplotlib, so import it late. Nothing here touches pyplot or any other global state of matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.report_pages import Forms, Picture

NO_METADATA = ("Creator", "Date", "Format", "Type")
WIDTH = 7.2  # inches; the text of the page is about as wide
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
}


@dataclass(frozen=True)
class Palette:
    """The colours of a picture, by what they are for; in a page, CSS variables of the same names stand for them."""

    ink: str
    muted: str
    line: str
    accent: str
    warm: str


PAPER = Palette(ink="#1d2530", muted="#687282", line="#dfe3e8", accent="#3556c9", warm="#c05a12")


@dataclass(frozen=True)
class Curve:
    """A line: `points` are (x, y) in rising x."""

    name: str
    points: Sequence[tuple[float, float]]


Draw = Callable[[Palette], Figure]


def picture(name: str, title: str, caption: str, draw: Draw) -> Picture:
    """A picture for the page, for the PDF and for Markdown. The same input gives the same bytes."""
    return Picture(name, title, caption, partial(_forms, name, draw))


def _forms(name: str, draw: Draw) -> Forms:
    settings: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = draw(PAPER)
        png = _saved(figure, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        figure.set_layout_engine("none")  # it is laid out now
        svg: dict[str, Any] = {"format": "svg", "transparent": True, "metadata": dict.fromkeys(NO_METADATA)}
        page = _saved(figure, **svg)
        with matplotlib.rc_context({"svg.fonttype": "path"}):
            return Forms(svg=_inline(page.decode(), name), paths=_saved(figure, **svg), png=png)


def _saved(figure: Figure, **how: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, **how)
    return file.getvalue()


def note(axes: Axes, palette: Palette, x: float, y: float, text: str) -> None:
    """A figure at the end of a bar."""
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=palette.ink)


def single(palette: Palette, height: float) -> tuple[Figure, Axes]:
    """One pair of axes, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    frame(axes, palette)
    return figure, axes


def frame(axes: Axes, palette: Palette) -> None:
    """Colour spines and ticks."""
    for spine in axes.spines.values():
        spine.set_color(palette.muted)
        spine.set_linewidth(0.7)
    axes.tick_params(colors=palette.muted, labelcolor=palette.ink, width=0.7, length=3)


def label(axes: Axes, palette: Palette, x: str, y: str, grid: str = "y") -> None:
    """Name both axes; grid lines cross the one that `grid` names."""
    axes.set_xlabel(x, color=palette.ink)
    axes.set_ylabel(y, color=palette.ink)
    axes.grid(True, axis="x" if grid == "x" else "y", color=palette.line, linewidth=0.7)


def legend(axes: Axes, palette: Palette) -> None:
    """Above the axes, where it hides nothing."""
    if labels := axes.get_legend_handles_labels()[1]:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": len(labels)}
        axes.legend(labelcolor=palette.ink, borderaxespad=0.2, handletextpad=0.5, columnspacing=1.6, **place)


def _inline(svg: str, name: str) -> str:
    """An SVG element that can stand in a page beside others: no size, ids of its own, colours from the page."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-labelledby="{name}-title">', svg
    )
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;]*; ?", "", svg)  # the page's
    for field in fields(Palette):
        svg = svg.replace(getattr(PAPER, field.name), f"var(--{field.name})")
    return svg.strip()
