"""A study as text for a terminal: what `start` shows live and `status` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.parameters import Value
from search.view import ENDED, Activity, StudyView, TrialView

ROWS = 15  # trials shown at most, the newest ones, beside the best
TROUBLES = 3  # reasons of failed trials shown at most
GAP = 2  # columns of space between two columns of the table
STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "interrupted": "yellow",
    "complete": "",
    "pruned": "dim",
    "infeasible": "magenta",
    "failed": "red",
}
PHASES = {
    "load": "loading the base model",
    "data": "preparing the data",
    "train": "training",
    "probe": "measuring the probe",
    "score": "answering the prompts",
    "save": "saving",
}
SHORT = {"all-linear": "all", "attention": "attn", "attention-qv": "attn-qv"}
FRACTIONS = {0.25: "¼", 0.5: "½", 0.75: "¾", 1.0: "1"}
HEADINGS = {  # parameter -> its heading, the most telling ones first
    "learning_rate": "lr",
    "rank": "rank",
    "targets": "targets",
    "batch_size": "batch",
    "rows": "rows",
    "dpo_share": "dpo",
    "alpha_ratio": "alpha/r",
    "schedule": "schedule",
    "max_length": "length",
    "dropout": "dropout",
    "warmup": "warmup",
    "dpo_beta": "beta",
    "dpo_learning_rate": "dpo lr",
    "optimizer": "optimizer",
    "weight_decay": "decay",
    "max_grad_norm": "clip",
}


def render(view: StudyView, rows: int = ROWS) -> RenderableType:
    """The whole study: a header with budget and best, the newest `rows` trials and the best one, what went wrong."""
    return Group(Header(view), "", Trials(view, rows), *_troubles(view)) if view.trials else Group(Header(view))


@dataclass(frozen=True)
class Header:
    """Name and progress, the budget as a bar, what to expect, the best so far, and what is going on."""

    view: StudyView

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view = self.view
        yield _line([Text(view.name, style="bold"), Text(done(view)), _service(view)])
        yield _budget(view, options.max_width)
        yield from [str(view.forecast)] if view.forecast else []
        yield _line([_base(view), _best(view)])
        yield from [Text(f"{str(view.race)[0].upper()}{str(view.race)[1:]}")] if view.race else []
        yield _now(view)


def _service(view: StudyView) -> Text:
    if view.service_pid is None:
        return Text("not running", style="yellow")
    until = f", until {view.until}" if view.until else ""
    return Text(f"running as process {view.service_pid}{until}", style="green")


def _budget(view: StudyView, width: int) -> Table:
    """GPU-seconds spent of the budget, as a bar and as figures, and the forecast."""
    figures = Text(spent(view))
    if view.left_s is not None and view.service_pid is not None:
        figures.append(f", about {duration(view.left_s)} to go")
    grid = Table.grid(padding=(0, 1))
    room = max(8, min(40, width - cell_len(figures.plain) - 1))
    grid.add_row(
        ProgressBar(total=max(view.budget_s, 1e-9), completed=view.spent_s, width=room, complete_style="cyan"), figures
    )
    return grid


def _base(view: StudyView) -> Text:
    return Text.assemble("base model ", (str(view.base), "bold")) if view.base else Text()


def _best(view: StudyView) -> Text:
    best = view.best
    if best is None:
        return Text("no trial has a score yet", style="dim")
    prior, pick = f", {best.prior}" if best.prior else "", view.pick
    what = "highest score" if pick and pick.by == "score" else "best"
    more = f"trial {best.number}{prior}{_luck(view, pick.luckier if pick else None)}"
    return Text.assemble(f"{what} ", (str(best.score), "bold green"), f" ({more})")


def _luck(view: StudyView, luckier: int | None) -> str:
    """Why a higher score is not the best."""
    score = None if luckier is None else view.trials[luckier].score
    return f"; trial {luckier}'s {score.value:.3f} is probably luck" if score else ""


def _now(view: StudyView) -> Text:
    if view.service_pid is None:
        ending = view.ending or "without a word (killed, or a power cut); start it again to go on"
        told_above = f"; {view.race.brief}" if view.race else ""
        return Text(f"ended: {ending.removesuffix(told_above)}")
    return Text("now: " + (activity(view.activity) if view.activity else "between two trials"))


def _line(parts: Iterable[Text]) -> Text:
    return Text("   ").join(part for part in parts if part.plain)


def done(view: StudyView) -> str:
    """How many trials are over, of how many: `7 of 14 trials`."""
    return f"{sum(trial.state in ENDED for trial in view.trials)} of {view.trials_wanted} trials"


def spent(view: StudyView) -> str:
    """`2m 05s of 6m 00s GPU time`."""
    return f"{duration(view.spent_s)} of {duration(view.budget_s)} GPU time"


def activity(now: Activity) -> str:
    """What the worker does, in words: `trial 7, training, step 42 of 100, loss 1.234`."""
    who = "base model" if now.trial is None else f"trial {now.trial}"
    parts = [f"final race, {who}" if now.race else who, PHASES.get(now.phase, now.phase)]
    if now.steps and now.phase in ("train", "probe", "save"):
        parts.append(f"step {now.step} of {now.steps}")
    if now.loss is not None and now.phase == "train":
        parts.append(f"loss {now.loss:.3f}")
    if now.left_s is not None and now.phase == "train":
        parts.append(f"about {duration(now.left_s)} of training to go")
    return ", ".join(parts)


@dataclass(frozen=True)
class Column:
    """One column of the table: its heading and a cell for each trial. Figures stand on the right."""

    heading: str
    cells: Sequence[str]
    right: bool = True

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.heading, *self.cells))


@dataclass(frozen=True)
class Trials:
    """The table of trials, with as many columns as the width has room for."""

    view: StudyView
    rows: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = chosen(self.view, self.rows)
        columns = _fitting(_columns(self.view, shown), options.max_width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True)
        for number, trial in enumerate(shown):
            style = "bold green" if trial is self.view.best else STYLES.get(trial.state, "")
            table.add_row(*(Text(column.cells[number]) for column in columns), style=style)
        yield table
        if hidden := len(self.view.trials) - len(shown):
            yield Text(f"and {hidden} more in the report", style="dim")


def chosen(view: StudyView, rows: int) -> list[TrialView]:
    """The newest `rows` trials, and the best one where it is older; in their order."""
    newest = list(view.trials[-rows:])
    best = view.best
    return newest if best is None or best in newest else [best, *newest]


def _columns(view: StudyView, shown: Sequence[TrialView]) -> list[tuple[int, Column]]:
    """Every column there could be, from left to right, each with its importance (0: always shown)."""
    best = view.best
    numbers = Column("#", [f"{'*' if t is best else ''}{t.number}" for t in shown])
    columns = [(0, numbers), (0, Column("state", [t.state for t in shown], right=False))]
    columns += [(4 + n, _parameter(name, shown)) for n, name in enumerate(_parameters(view))]
    fractions = sorted(set(chain.from_iterable(trial.rungs for trial in view.trials)))[-4:]
    columns += [(2, _rung(fraction, shown, first=n == 0)) for n, fraction in enumerate(fractions)]
    columns.append((1, Column("score", [score(t) for t in shown])))
    columns.append((3, Column("GPU", [duration(t.gpu_seconds) if t.gpu_seconds else "" for t in shown])))
    if any(t.prior for t in shown):
        columns.append((3 + 5, Column("prior", [t.prior for t in shown], right=False)))
    return columns


def score(trial: TrialView) -> str:
    """Its score; of one that was ended as behind, what it did and an estimate: `9 of 24 followed, behind 3, ≈ 0.4`."""
    if trial.behind is not None and trial.value is not None:
        done = f"after {trial.asked}" if trial.followed is None else f"{trial.followed} of {trial.asked} followed"
        return f"{done}, behind {trial.behind}, ≈ {trial.value:.2f}"
    return str(trial.score) if trial.score else ""


def _parameters(view: StudyView) -> Iterator[str]:
    """The searched parameters, the most telling ones first; mixture weights after the well-known ones."""
    names = dict.fromkeys(name for trial in view.trials for name in trial.params)
    yield from (name for name in HEADINGS if name in names)
    yield from (name for name in names if name not in HEADINGS)


def _parameter(name: str, shown: Sequence[TrialView]) -> Column:
    heading = HEADINGS.get(name, name.removeprefix("weight."))
    is_text = any(isinstance(trial.params.get(name), str) for trial in shown)
    return Column(heading, [figure(t.params[name]) if name in t.params else "" for t in shown], right=not is_text)


def _rung(fraction: float, shown: Sequence[TrialView], *, first: bool) -> Column:
    heading = FRACTIONS.get(fraction, f"{fraction:.0%}")
    cells = [f"{t.rungs[fraction]:.3f}" if fraction in t.rungs else "" for t in shown]
    return Column(f"bpb {heading}" if first else heading, cells)


def _fitting(columns: Sequence[tuple[int, Column]], width: int) -> list[Column]:
    """The columns that fit, the more important ones first, in their order."""
    kept: set[int] = set()
    used = -GAP
    for place, (importance, column) in sorted(enumerate(columns), key=lambda item: item[1][0]):
        if importance == 0 or used + GAP + column.width <= width:
            kept.add(place)
            used += GAP + column.width
    return [column for place, (_, column) in enumerate(columns) if place in kept]


def _troubles(view: StudyView) -> Iterator[Text]:
    """Why trials failed or do not fit: the newest few."""
    wrong = [trial for trial in view.trials if trial.state in ("failed", "infeasible") and trial.reason]
    if wrong:
        yield Text("")
    for trial in wrong[-TROUBLES:]:
        yield Text(f"trial {trial.number} {trial.state}: {trial.reason}", style=STYLES[trial.state])


def figure(value: Value) -> str:
    """A parameter's value in a few characters."""
    return f"{value:.2g}" if isinstance(value, float) else SHORT.get(str(value), str(value))


def duration(seconds: float) -> str:
    """Seconds in the two largest units: `45s`, `2m 05s`, `3h 12m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
