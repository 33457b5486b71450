"""The `nightshift` command: parses, prints, exits. Nothing else of Nightshift prints, and nothing heavy is imported
before a command needs it.

Exit codes: 0 done, 2 something has to be put right first (one message, no traceback), 130 stopped by Ctrl-C, 143 by
SIGTERM.
"""

from __future__ import annotations

import errno
import functools
import gc
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from search import cli_begin, cli_handin, cli_models, cli_nights
from search.cli_options import AnyStudy, StudyFile, complete_study, hours, time_of_day

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.attempt import Asked
    from search.config import StudyConfig

REPORTED_ERRORS = {  # every error that a user can cause; the room that raises one has been imported by then
    "search.errors": "SearchError",
    "train.recipe": "RecipeError",
    "objectives.score": "ObjectiveError",
    "storage.file": "StorageError",
}
DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
COLLECT_SELDOM = (200_000, 20, 100)  # thousands of trials are a million objects, which stay
STATUS_ROWS = 60  # trials that status shows: the newest ones, beside the best
GO_ON = "stopped; everything that was finished is safe, and the same command goes on from here"


class Guarded(TyperGroup):
    """Turns every error that a user can cause into one message and exit code 2, a signal into 128 and its number."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            _complain(GO_ON)
            raise typer.Exit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            _fail(f"{error.filename or 'the output'}: {error.strerror}")
        except Exception as error:
            if not isinstance(error, _reported()):
                raise
            _fail(str(error))


def _reported() -> tuple[type[BaseException], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in REPORTED_ERRORS.items())
    return tuple(getattr(module, name) for module, name in loaded if module is not None)


def _fail(message: str) -> NoReturn:
    start = "\n" if "\n" in message else " "
    _complain(Text.assemble(("error:", "bold red"), start, message))
    raise typer.Exit(2)


def _complain(message: str | Text) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


def _print(*things: RenderableType) -> None:
    for thing in things:
        Console(highlight=False, soft_wrap=isinstance(thing, (str, Text))).print(thing, markup=False)


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One model, one GPU, one day: search for a QLoRA recipe at night, freeze the best one, train it for 24 hours.",
    epilog="[bold]A first evening:[/] nightshift rehearse. [bold]A night:[/] nightshift init, then nightshift start "
    "study.toml. [bold]The morning after:[/] nightshift status, nightshift freeze, nightshift report.",
)

BEGIN, NIGHT, MORNING, MODELS = "To begin", "The night", "The morning after", "One model by itself"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        _print(f"nightshift {version('nightshift')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


def _shown(command: Callable[..., cli_models.Shown]) -> Callable[..., None]:
    """A command that shows what `command` gives."""

    @functools.wraps(command)
    def show(*arguments: Any, **options: Any) -> None:
        for thing in command(*arguments, **options):
            if isinstance(thing, cli_models.Plain):
                typer.echo(json.dumps(thing.value, indent=1, allow_nan=False))
            else:
                _print(thing)

    return show


def _add(panel: str, *commands: tuple[Callable[..., cli_models.Shown], str]) -> None:
    """Take these commands, each with an example, in."""
    for command, example in commands:
        app.command(rich_help_panel=panel, epilog=f"[bold]Example:[/] {example}")(_shown(command))


_add(
    BEGIN,
    (cli_begin.rehearse, "nightshift rehearse --seed 1 --home rehearsal-1"),
    (cli_begin.init, "nightshift init --preset rtx-4070-ti"),
    (cli_begin.plan, "nightshift plan study.toml --memory 11.5"),
    (cli_begin.fetch, "nightshift fetch study.toml"),
)


@app.command(rich_help_panel=NIGHT, epilog="[bold]Example:[/] nightshift start study.toml --until 03:00 --budget 16")
def start(
    study: StudyFile,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM", callback=time_of_day, help="Save and stop at this local time.", show_default=False
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            callback=hours,
            help="GPU-hours that the study may spend in all its nights.",
            show_default=False,
        ),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="OTHER_STUDY",
            autocompletion=complete_study,
            help="Begin with what was best in an earlier study, on whatever base model and data.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Search, or go on searching, until the trials, the budget or the night are over."""
    from search import home, transfer, view

    config, folder = home.study(study)
    from search import fetch as fetching
    from search.attempt import STOPPED, Asked, Interrupted

    if notice := fetching.notice(config, folder):
        _complain(notice)
    asked, budget_s = Asked(), 3600 * (budget or config.study.budget_hours)
    source = None if earlier is None else transfer.find(earlier)
    ending = _search(config, folder, until or config.study.until, budget_s, asked, source)
    _print(f"\n{config.study.name}: {ending}")
    if ending == STOPPED["asked"]:
        raise Interrupted(asked)
    name = folder.name if folder == home.studies() / folder.name else shlex.quote(str(folder))
    after = ("status", "freeze", "report") if view.read(folder, STATUS_ROWS).pick else ("status",)
    _print(f"next: {', '.join(f'nightshift {command} {name}' for command in after)}")


def _search(
    config: StudyConfig, folder: Path, until: str | None, budget_s: float, asked: Asked, earlier: Path | None
) -> str:
    from search import loop
    from search.clock import SYSTEM, Deadline
    from search.progress import duration
    from search.screen import Screen

    deadline, screen = Deadline.after_now(until, SYSTEM) if until else None, Screen()
    if deadline:
        screen.say(f"the night ends at {until}, in {duration(deadline.left_s(SYSTEM))}")
    with _disk_told(folder), screen.watching() as observe:
        return loop.run(
            config,
            folder,
            deadline=deadline,
            until=until,
            budget_s=budget_s,
            observe=observe,
            say=screen.say,
            asked=asked,
            earlier=earlier,
        )


@contextmanager
def _disk_told(folder: Path) -> Iterator[None]:
    """Name the folder where a disk is full: the error of a write names no file."""
    from search.errors import SearchError

    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SearchError(
            f"{folder}: {error.strerror} (or on the disk that takes what this command prints). What was finished is "
            f"safe: make room, then go on with `nightshift start {shlex.quote(str(folder))}`"
        ) from None


@app.command(rich_help_panel=NIGHT)
def status(
    study: AnyStudy = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Show how far a study is: trials, rungs, the best so far, GPU time spent."""
    from search import home, view
    from search.progress import render
    from search.screen import plain

    folder = home.folder(study)
    if as_json:
        typer.echo(json.dumps(plain(view.read(folder)), indent=1, allow_nan=False))
    else:
        _print(render(view.read(folder, STATUS_ROWS), STATUS_ROWS))


@app.command(rich_help_panel=NIGHT)
def stop(study: AnyStudy = None) -> None:
    """Have the running service save its trial and end, and wait until it has."""
    from search import home
    from search import stop as stopping

    folder = home.folder(study)
    pid = stopping.ask(folder)
    _complain(f"process {pid} was asked to stop; waiting until its trial is saved")
    _print(f"{folder.name}: {stopping.wait(folder)}")


@app.command(rich_help_panel=NIGHT)
def dashboard(
    study: AnyStudy = None,
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8080,
) -> None:
    """Serve the study's pages in a browser: read-only, on this machine alone, behind a token."""
    from search import home
    from search.dashboard import Dashboard

    with Dashboard(home.folder(study), port) as served:
        _print(f"{served.url}\n\nOpen this address. Whoever has it can read the study. Ctrl-C ends the dashboard.")
        try:
            served.serve()
        except KeyboardInterrupt:
            _complain("the dashboard has ended")


@app.command(rich_help_panel=MORNING)
def freeze(
    study: AnyStudy = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether file and study still agree.")] = False,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Go on with this data source, or 'base', whose licence is not known; may be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the best trial as final_run.py, the one file that trains for up to a day, and its lock beside it."""
    from search import freeze as freezing
    from search import home

    config, folder = home.study(study)
    if check:
        freezing.check(config, folder)
        _print(f"{folder / freezing.FILE} and the study agree")
        return
    written = freezing.freeze(config, folder, accept_licence or (), _print)
    _print(f"wrote {written}: read it, then run\n\n    {home.python()} {shlex.quote(str(written))}\n")


@app.command(rich_help_panel=MORNING)
def report(study: AnyStudy = None) -> None:
    """Write the study's report, as a page with pictures, as Markdown and as a PDF."""
    from search import home
    from search import report as reporting

    written = reporting.write(home.folder(study))
    for path in written.files:
        _print(f"wrote {path}")
    for problem in written.problems:
        _print(f"{problem}, and the report does without: put the file back from a copy")
    if written.blanks:
        _print(f"to fill in, in {written.answers}: {', '.join(written.blanks)}; then make the report again")


_add(
    MODELS,
    (cli_models.score, "nightshift score studies/tiny/final --save-samples"),
    (cli_models.latency, "nightshift latency studies/tiny/final"),
    (cli_models.compare, "nightshift compare scores/Qwen2.5-7B studies/tiny/final/scores --show 3"),
)
_add(NIGHT, (cli_nights.install, "nightshift install qwen-7b --at 22:00 --until 06:00"))
_add(
    MORNING,
    (cli_handin.export, "nightshift export qwen-7b --format merged --out Qwen2.5-7B-mine"),
    (cli_handin.bundle, "nightshift bundle qwen-7b"),
    (cli_handin.push, "nightshift push qwen-7b name/Qwen2.5-7B-mine"),
)


def main() -> None:
    """The console script. What a terminal's encoding lacks is replaced, not refused."""
    gc.set_threshold(*COLLECT_SELDOM)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="nightshift")


if __name__ == "__main__":
    main()
