"""The report's pictures of trials and scores. Plain values in, a drawing out (see search.report_canvas).

Imports matplotlib, so import it late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from objectives.score import Measure
from search.report_canvas import WIDTH, Curve, Draw, Palette, frame, label, legend, note, single

FAR = 4.0  # times the smallest value: from there on, an axis is logarithmic


@dataclass(frozen=True)
class Outcome:
    """One trial in the history. `score` is None unless it is complete; `value` is an estimate where it is behind."""

    number: int
    state: str
    score: Measure | None
    value: float | None


def history(outcomes: Sequence[Outcome], base: Measure | None) -> Draw:
    """Score of every complete trial with its standard error, the best so far, and when the others ended."""

    def draw(palette: Palette) -> Figure:
        figure, axes = single(palette, 3.0)
        scored = [(o.number, o.score) for o in outcomes if o.score is not None and o.state == "complete"]
        if base is not None:
            _base_line(axes, palette, base)
        if scored:
            _scores(axes, palette, scored, max(o.number for o in outcomes))
        behind = [(o.number, o.value) for o in outcomes if o.state == "behind" and o.value is not None]
        if behind:
            numbers, values = zip(*behind, strict=True)
            axes.plot(
                numbers, values, "v", color=palette.muted, markersize=4, fillstyle="none", label="behind, estimate"
            )
        ended = [o.number for o in outcomes if o.state in ("pruned", "infeasible", "failed")]
        if ended:
            axes.plot(ended, [0.0] * len(ended), "|", color=palette.muted, markersize=9, label="not scored")
        top = max([m.value + m.standard_error for _, m in scored] + [base.value if base else 0.0, 0.1])
        axes.set_ylim(-0.02 * top, min(1.04, 1.12 * top))
        axes.set_xlim(-0.7, max([o.number for o in outcomes], default=0) + 0.7)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label(axes, palette, "trial", "share of prompts followed")
        legend(axes, palette)
        return figure

    return draw


def _base_line(axes: Axes, palette: Palette, base: Measure) -> None:
    low, high = base.value - base.standard_error, base.value + base.standard_error
    axes.axhspan(max(0.0, low), high, color=palette.warm, alpha=0.12, linewidth=0)
    axes.axhline(base.value, color=palette.warm, linewidth=1.0, linestyle=(0, (4, 3)), label="base model")


def _scores(axes: Axes, palette: Palette, scored: Sequence[tuple[int, Measure]], last: int) -> None:
    """Every score, and the best so far up to the trial `last`, whether that has a score or not."""
    numbers, values = [n for n, _ in scored], [m.value for _, m in scored]
    best = [max(values[: i + 1]) for i in range(len(values))]
    axes.step(
        [*numbers, last], [*best, best[-1]], where="post", color=palette.accent, linewidth=1.4, label="best so far"
    )
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
        figure, axes = single(palette, 3.0)
        labelled: set[str] = set()
        for curve in sorted(curves, key=lambda c: c.name == best):
            kind, colour, width, dashes = _rung_style(curve.name, best, pruned, palette)
            x, y = [100 * at for at, _ in curve.points], [value for _, value in curve.points]
            shown = None if kind in labelled else kind
            labelled.add(kind)
            axes.plot(x, y, color=colour, linewidth=width, linestyle=dashes, marker="o", markersize=3, label=shown)
        label(axes, palette, "share of the horizon (%)", "probe (bits per byte)")
        values = [value for curve in curves for _, value in curve.points if value > 0]
        if values and max(values) > FAR * min(values):  # one trial that diverged would flatten all the others
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0, 104)
        legend(axes, palette)
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
        figure, axes = single(palette, 0.7 + 0.24 * len(values))
        names = list(values)[::-1]
        axes.barh(names, [values[name] for name in names], color=palette.accent, height=0.62)
        for place, name in enumerate(names):
            note(axes, palette, values[name], place, f"{values[name]:.0%}")
        label(axes, palette, "importance (share of all)", "", grid="x")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlim(0, 1.12 * max(values.values()))
        return figure

    return draw


Followed = Mapping[str, Measure]  # by instruction type


def by_type(panels: Sequence[tuple[str, Followed, Followed]], after_name: str) -> Draw:
    """For each instruction type, the share followed by the base model and, with its standard error, by the tuned one.

    `panels` are (prompts, base model, tuned one), drawn side by side; the types with the lowest shares are at the
    bottom.
    """
    names = list(dict.fromkeys(name for _, _, after in panels for name in after))

    def mean(name: str) -> float:
        known = [after[name].value for _, _, after in panels if name in after]
        return sum(known) / len(known)

    names.sort(key=lambda name: (mean(name), name))

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH, 0.9 + 0.2 * len(names)), layout="constrained")
        columns = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, (prompts, before, after) in zip(columns, panels, strict=True):
            frame(axes, palette)
            _pairs(axes, palette, [(before.get(name), after.get(name)) for name in names], after_name)
            label(axes, palette, f"share, {prompts}", "", grid="x")
        counts = [
            " and ".join(str(after[name].n) if name in after else "0" for _, _, after in panels) for name in names
        ]
        labels = [f"{name.replace(':', ': ')}  ({count})" for name, count in zip(names, counts, strict=True)]
        columns[0].set_yticks(range(len(names)), labels)
        columns[0].set_ylim(-0.7, len(names) - 0.3)
        legend(columns[0], palette)
        return figure

    return draw


def _pairs(
    axes: Axes, palette: Palette, pairs: Sequence[tuple[Measure | None, Measure | None]], after_name: str
) -> None:
    """One row a type, from the bottom: the base model's share, the tuned one's, and a line between them."""
    for place, (before, after) in enumerate(pairs):
        if before and after:
            ends = [before.value, after.value]
            axes.plot(ends, [place, place], color=palette.line, linewidth=2.5, solid_capstyle="round")
    style: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linestyle": "none"}
    untuned = [(place, before.value) for place, (before, _) in enumerate(pairs) if before]
    axes.plot([v for _, v in untuned], [p for p, _ in untuned], color=palette.warm, label="base model", **style)
    tuned = [(place, after) for place, (_, after) in enumerate(pairs) if after]
    values, errors = [m.value for _, m in tuned], [m.standard_error for _, m in tuned]
    style |= {"color": palette.accent, "ecolor": palette.muted, "elinewidth": 0.8}
    axes.errorbar(values, [p for p, _ in tuned], xerr=errors, label=f"{after_name}, ± SE", **style)
    axes.set_xlim(-0.04, 1.04)
