"""The report's pictures of runs and of what they took. Plain values in, a drawing out (see search.report_canvas).

Imports matplotlib, so import it late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.report_canvas import WIDTH, Curve, Draw, Palette, frame, label, legend, note, single

__all__ = ["Curve", "Points", "course", "foretold", "losses", "smooth", "spent", "time_unit"]

Points = Sequence[tuple[float, float]]
GIB = 2**30
FEW = 12  # points up to which each is marked
MOST_POINTS = 2000  # of a line; of more, every second, third, ... is drawn


def course(panels: Sequence[tuple[str, Points]], interrupted: Sequence[float]) -> Draw:
    """One panel a quantity, over process time: (what is on its y axis, points in rising seconds). Dotted lines stand at
    the seconds at which the run was interrupted."""
    unit, scale = time_unit(max(x for _, points in panels for x, _ in points))

    def draw(palette: Palette) -> Figure:
        rows = -(-len(panels) // 2)
        figure = Figure(figsize=(WIDTH, 0.3 + 2.1 * rows), layout="constrained")
        places = figure.subplots(rows, 2, squeeze=False).flatten()
        for axes, (quantity, points) in zip(places, panels, strict=False):
            frame(axes, palette)
            for seconds in interrupted:
                axes.axvline(seconds / scale, color=palette.warm, linewidth=0.9, linestyle=":")
            _line(axes, Curve("", [(x / scale, y) for x, y in points]), palette.accent)
            label(axes, palette, f"process time ({unit})", quantity)
            axes.set_xlim(0, None)
        for axes in places[len(panels) :]:
            axes.remove()
        return figure

    return draw


def foretold(memory: Points, seconds: Points) -> Draw:
    """Measured over foretold: bytes on the left, seconds on the right, a dot a trial, and the line where they are
    equal. A panel without points is left out."""
    panels: list[tuple[str, float, Points]] = []
    if memory:
        big = max(max(pair) for pair in memory) >= 2 * GIB
        panels.append(("peak memory (GiB)", GIB, memory) if big else ("peak memory (MiB)", 2**20, memory))
    if seconds:
        unit, scale = time_unit(max(max(pair) for pair in seconds))
        panels.append((f"time of a trial ({unit})", scale, seconds))

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        for axes, (quantity, scale, pairs) in zip(figure.subplots(1, 2), panels, strict=False):
            frame(axes, palette)
            top = 1.08 * max(max(pair) for pair in pairs) / scale
            axes.plot([0, top], [0, top], color=palette.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            x, y = [first / scale for first, _ in pairs], [second / scale for _, second in pairs]
            axes.plot(x, y, "o", color=palette.accent, markersize=4, alpha=0.75, markeredgewidth=0)
            label(axes, palette, f"foretold {quantity}", f"measured {quantity}")
            axes.set_xlim(0, top)
            axes.set_ylim(0, top)
        for axes in figure.axes[len(panels) :]:
            axes.remove()
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
            frame(axes, palette)
            for curve in curves:
                percent = Curve(curve.name, [(100 * at, value) for at, value in curve.points])
                _line(axes, percent, colours[curve.name])
            label(axes, palette, "share of the horizon (%)", quantity)
            first = min(100 * at for curve in curves for at, _ in curve.points)
            axes.set_xlim(first - 2 if first > 20 else 0, 102)
        legend(columns[0], palette)
        return figure

    return draw


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    x, y = [at for at, _ in curve.points], [value for _, value in curve.points]
    if len(y) <= FEW:
        axes.plot(x, y, color=colour, linewidth=1.4, marker="o", markersize=3, label=curve.name)
        return
    nth = 1 + len(y) // MOST_POINTS
    if y == sorted(y):  # what only rises, such as progress, needs no mean
        axes.plot(x[::nth], y[::nth], color=colour, linewidth=1.5, label=curve.name)
        return
    axes.plot(x[::nth], y[::nth], color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x[::nth], smooth(y)[::nth], color=colour, linewidth=1.5, label=curve.name)


def smooth(values: Sequence[float]) -> list[float]:
    """Running mean over a twentieth of the values, at least five, and fewer at both ends."""
    half, sums = max(2, len(values) // 40), [0.0, *accumulate(values)]
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[last] - sums[first]) / (last - first) for first, last in ends]


def spent(seconds: Mapping[str, float]) -> Draw:
    """GPU time by cause, in the unit that reads best."""

    def draw(palette: Palette) -> Figure:
        figure, axes = single(palette, 0.7 + 0.24 * len(seconds))
        unit, scale = time_unit(max(seconds.values()))
        names = sorted(seconds, key=lambda name: seconds[name])
        total = sum(seconds.values())
        axes.barh(names, [seconds[name] / scale for name in names], color=palette.accent, height=0.62)
        for place, name in enumerate(names):
            text = f"{seconds[name] / scale:.2f}, {seconds[name] / total:.0%}"
            note(axes, palette, seconds[name] / scale, place, text)
        label(axes, palette, f"charged time ({unit})", "", grid="x")
        axes.set_xlim(0, 1.18 * max(seconds.values()) / scale)
        return figure

    return draw


def time_unit(seconds: float) -> tuple[str, float]:
    """Name and length in seconds of the unit in which so much time reads best."""
    if seconds >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if seconds >= 120 else ("seconds", 1.0)
