"""How the command shows things: live or line by line, as tables, as JSON. Only search.cli uses it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from search.progress import ROWS, duration, render
from search.progress_lines import changes
from search.view import StudyView

if TYPE_CHECKING:
    from search.rehearse import Rehearsed

HEADER_LINES = 12  # of a terminal's height, which the table of trials leaves free


class Screen:
    """Shows a study while it is worked on: redrawn on a terminal, one line for each change elsewhere.

    Showing never ends the work: when nobody reads any more, it falls silent.
    """

    def __init__(self) -> None:
        self._console = Quietable(highlight=False)
        self._before: StudyView | None = None

    def say(self, text: str) -> None:
        """One line about what is done now."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def watching(self) -> Iterator[Callable[[StudyView], None]]:
        """An observer of the study, for as long as the block lasts."""
        if not self._console.is_terminal:
            yield self._log
            return
        with Live(console=self._console, auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda view: live.update(
                render(view, max(3, min(ROWS, self._console.height - HEADER_LINES))), refresh=True
            )

    def _log(self, view: StudyView) -> None:
        for line in changes(self._before, view):
            self.say(line)
        self._before = view


class Quietable(Console):
    """A console that falls silent, instead of ending the program, when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def rehearsed(done: Rehearsed) -> RenderableType:
    """What a rehearsal gave, what it took, and where everything is."""
    scores = Table(title="IFEval prompts followed (strict) ± standard error", title_justify="left", title_style="bold")
    for heading in ("", "half that the search sees", "half that it never sees"):
        scores.add_column(heading, justify="right" if heading else "left")
    for result in done.results:
        cells = [f"{measure} (n={measure.n})" if measure else "" for measure in (result.search, result.unseen)]
        scores.add_row(result.model, *cells)
    places = Table.grid(padding=(0, 2))
    places.add_row("report", f"{done.folder / 'report.html'} (and report.pdf, report.md)")
    places.add_row("frozen recipe", str(done.folder / "final_run.py"))
    places.add_row("its adapter", str(done.folder / "final" / "adapter"))
    return Group("", scores, "", _steps(done), "", places)


def _steps(done: Rehearsed) -> Table:
    table = Table.grid(padding=(0, 2))
    for step in done.steps:
        table.add_row(step.name, f"{step.seconds:.1f} s" if step.seconds < 60 else duration(step.seconds))
    table.add_row("together", duration(sum(step.seconds for step in done.steps)), style="bold")
    return table


def plain(value: Any) -> Any:
    """Dataclasses, models and paths as what JSON has; a number that JSON has not (NaN) as null."""
    if is_dataclass(value):
        extra = {"best": value.best.number if value.best else None} if hasattr(value, "best") else {}
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)} | extra
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
