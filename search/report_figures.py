"""The report's pictures. Plain values in; out comes each picture twice: inline SVG that follows the light or dark
colours of the page, and PNG for Markdown.

Imports matplotlib, so import it late. Nothing here touches pyplot or any other global state of matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from objectives.score import Measure
from search.report_pages import Picture

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
    """The colours of a picture, by what they are for."""

    ink: str
    muted: str
    line: str
    accent: str
    warm: str


PAPER = Palette(ink="#1d2530", muted="#687282", line="#dfe3e8", accent="#3556c9", warm="#c05a12")
SLOTS = Palette(
    ink="#0a0001", muted="#0a0002", line="#0a0003", accent="#0a0004", warm="#0a0005"
)  # become CSS variables

Draw = Callable[[Palette], Figure]


@dataclass(frozen=True)
class Outcome:
    """One trial in the history: `score` is None unless it is complete."""

    number: int
    state: str
    score: Measure | None


@dataclass(frozen=True)
class Curve:
    """A line: `points` are (x, y) in rising x."""

    name: str
    points: Sequence[tuple[float, float]]


def picture(name: str, title: str, caption: str, draw: Draw) -> Picture:
    """Draw it for the page and for Markdown. The same input gives the same bytes."""
    settings: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        svg = io.StringIO()
        draw(SLOTS).savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        png = io.BytesIO()
        draw(PAPER).savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Picture(name=name, title=title, caption=caption, svg=_inline(svg.getvalue(), name), png=png.getvalue())


def history(outcomes: Sequence[Outcome], base: Measure | None) -> Draw:
    """Score of every complete trial with its standard error, the best so far, and when the others ended."""

    def draw(palette: Palette) -> Figure:
        figure, axes = _figure(palette, 3.0)
        scored = [(o.number, o.score) for o in outcomes if o.score is not None and o.state == "complete"]
        if base is not None:
            _base_line(axes, palette, base)
        if scored:
            _scores(axes, palette, scored)
        ended = [o.number for o in outcomes if o.state in ("pruned", "infeasible", "failed")]
        if ended:
            axes.plot(
                ended, [0.0] * len(ended), "|", color=palette.muted, markersize=9, label="pruned, failed or too large"
            )
        top = max([m.value + m.standard_error for _, m in scored] + [base.value if base else 0.0, 0.1])
        axes.set_ylim(-0.02 * top, min(1.04, 1.12 * top))
        axes.set_xlim(-0.7, max([o.number for o in outcomes], default=0) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label(axes, palette, "trial", "share of prompts followed")
        _legend(axes, palette)
        return figure

    return draw


def _base_line(axes: Axes, palette: Palette, base: Measure) -> None:
    low, high = base.value - base.standard_error, base.value + base.standard_error
    axes.axhspan(max(0.0, low), high, color=palette.warm, alpha=0.12, linewidth=0)
    axes.axhline(base.value, color=palette.warm, linewidth=1.0, linestyle=(0, (4, 3)), label="base model")


def _scores(axes: Axes, palette: Palette, scored: Sequence[tuple[int, Measure]]) -> None:
    numbers, values = [n for n, _ in scored], [m.value for _, m in scored]
    best = [max(values[: i + 1]) for i in range(len(values))]
    axes.step(numbers, best, where="post", color=palette.accent, linewidth=1.4, label="best so far")
    errors = [m.standard_error for _, m in scored]
    style: dict[str, Any] = {
        "color": palette.ink,
        "ecolor": palette.muted,
        "elinewidth": 0.8,
        "markersize": 4.0,
        "linestyle": "none",
    }
    axes.errorbar(numbers, values, yerr=errors, marker="o", label="complete, ± SE", **style)


def rungs(curves: Sequence[Curve], best: str | None, pruned: frozenset[str]) -> Draw:
    """Bits per byte over the horizon, one line a trial; the best one stands out."""

    def draw(palette: Palette) -> Figure:
        figure, axes = _figure(palette, 3.0)
        labelled: set[str] = set()
        for curve in sorted(curves, key=lambda c: c.name == best):
            kind, colour, width, dashes = _rung_style(curve.name, best, pruned, palette)
            x, y = [100 * at for at, _ in curve.points], [value for _, value in curve.points]
            label = None if kind in labelled else kind
            labelled.add(kind)
            axes.plot(x, y, color=colour, linewidth=width, linestyle=dashes, marker="o", markersize=3, label=label)
        _label(axes, palette, "share of the horizon (%)", "probe (bits per byte)")
        axes.set_yscale("log")  # one trial that diverged would flatten all the others
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0, 104)
        _legend(axes, palette)
        return figure

    return draw


def _rung_style(name: str, best: str | None, pruned: frozenset[str], palette: Palette) -> tuple[str, str, float, str]:
    if name == best:
        return f"best: {name}", palette.accent, 2.0, "-"
    if name in pruned:
        return "pruned", palette.warm, 0.9, ":"
    return "complete", palette.muted, 0.9, "-"


def importances(values: Mapping[str, float]) -> Draw:
    """Share of each hyperparameter in the differences between scores, largest on top."""

    def draw(palette: Palette) -> Figure:
        figure, axes = _figure(palette, 0.7 + 0.24 * len(values))
        names = list(values)[::-1]
        axes.barh(names, [values[name] for name in names], color=palette.accent, height=0.62)
        for place, name in enumerate(names):
            _note(axes, palette, values[name], place, f"{values[name]:.0%}")
        _label(axes, palette, "importance (share of all)", "", grid="x")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(0, 1.12 * max(values.values()))
        return figure

    return draw


def losses(panels: Sequence[tuple[str, Sequence[Curve]]]) -> Draw:
    """One panel a quantity over the horizon: (what is on its y axis, lines). The first line of several is muted."""

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        columns = figure.subplots(1, len(panels), squeeze=False)[0]
        names = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
        colours = dict(zip(names, [palette.muted, palette.accent] if len(names) > 1 else [palette.accent], strict=True))
        for axes, (quantity, curves) in zip(columns, panels, strict=True):
            _frame(axes, palette)
            for curve in curves:
                _loss_line(axes, curve, colours[curve.name])
            _label(axes, palette, "share of the horizon (%)", quantity)
            first = min(100 * at for curve in curves for at, _ in curve.points)
            axes.set_xlim(first - 2 if first > 20 else 0, 102)
        _legend(columns[0], palette)
        return figure

    return draw


def _loss_line(axes: Axes, curve: Curve, colour: str) -> None:
    x, y = [100 * at for at, _ in curve.points], [value for _, value in curve.points]
    if len(y) <= 12:
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o", markersize=3, label=curve.name)
        return
    axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x, smooth(y), color=colour, linewidth=1.5, label=curve.name)


def smooth(values: Sequence[float]) -> list[float]:
    """Running mean over a twentieth of the values, at least five, and fewer at both ends."""
    half = max(2, len(values) // 40)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def spent(seconds: Mapping[str, float]) -> Draw:
    """GPU time by cause, in the unit that reads best."""

    def draw(palette: Palette) -> Figure:
        figure, axes = _figure(palette, 0.7 + 0.24 * len(seconds))
        unit, scale = time_unit(max(seconds.values()))
        names = sorted(seconds, key=lambda name: seconds[name])
        total = sum(seconds.values())
        axes.barh(names, [seconds[name] / scale for name in names], color=palette.accent, height=0.62)
        for place, name in enumerate(names):
            text = f"{seconds[name] / scale:.2f}, {seconds[name] / total:.0%}"
            _note(axes, palette, seconds[name] / scale, place, text)
        _label(axes, palette, f"charged time ({unit})", "", grid="x")
        axes.set_xlim(0, 1.18 * max(seconds.values()) / scale)
        return figure

    return draw


def time_unit(seconds: float) -> tuple[str, float]:
    """Name and length in seconds of the unit in which so much time reads best."""
    if seconds >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 120 else ("seconds", 1.0)


def by_type(before: Mapping[str, Measure], after: Mapping[str, Measure], after_name: str) -> Draw:
    """For each instruction type, the share followed by the base model and by the tuned one."""

    def draw(palette: Palette) -> Figure:
        figure, axes = _figure(palette, 0.9 + 0.2 * len(after))
        names = sorted(after, key=lambda name: (after[name].value, name))
        for place, name in enumerate(names):
            if name in before:
                ends = [before[name].value, after[name].value]
                axes.plot(ends, [place, place], color=palette.line, linewidth=2.5, solid_capstyle="round")
        shared = [(place, before[name].value) for place, name in enumerate(names) if name in before]
        if shared:
            axes.plot(
                [v for _, v in shared], [p for p, _ in shared], "o", color=palette.warm, ms=4.5, label="base model"
            )
        tuned = [after[name].value for name in names]
        axes.plot(tuned, range(len(names)), "o", color=palette.accent, markersize=4.5, label=after_name)
        axes.set_yticks(range(len(names)), [f"{name.replace(':', ': ')}  ({after[name].n})" for name in names])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.7, len(names) - 0.3)
        _label(axes, palette, "share of instructions followed", "", grid="x")
        _legend(axes, palette)
        return figure

    return draw


def _note(axes: Axes, palette: Palette, x: float, y: float, text: str) -> None:
    """A figure at the end of a bar."""
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=palette.ink)


def _figure(palette: Palette, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _frame(axes, palette)
    return figure, axes


def _frame(axes: Axes, palette: Palette) -> None:
    for spine in axes.spines.values():
        spine.set_color(palette.muted)
        spine.set_linewidth(0.7)
    axes.tick_params(colors=palette.muted, labelcolor=palette.ink, width=0.7, length=3)


def _label(axes: Axes, palette: Palette, x: str, y: str, grid: str = "y") -> None:
    axes.set_xlabel(x, color=palette.ink)
    axes.set_ylabel(y, color=palette.ink)
    axes.grid(True, axis="x" if grid == "x" else "y", color=palette.line, linewidth=0.7)


def _legend(axes: Axes, palette: Palette) -> None:
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
        svg = svg.replace(getattr(SLOTS, field.name), f"var(--{field.name})")
    return svg.strip()
