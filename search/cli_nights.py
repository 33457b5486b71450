"""The command that has a study go on by itself. It gives what is to be shown; search.cli shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from search.cli_options import AnyStudy, hours, time_of_day
from search.errors import ConfigError
from train.until import is_time


def boot_or_time(value: str) -> str:
    """`boot` or 22:00."""
    if value != "boot" and not is_time(value):
        raise ConfigError(f"--at {value!r}: this is neither boot nor a time of day like 22:00, from 00:00 to 23:59")
    return value


def install(
    study: AnyStudy = None,
    at: Annotated[
        str,
        typer.Option(metavar="HH:MM|boot", callback=boot_or_time, help="When it goes on: at a local time, or at boot."),
    ] = "boot",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="HH:MM",
            callback=time_of_day,
            help="Save and stop at this local time, not the study's.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS", callback=hours, help="GPU-hours of all nights, not the study's.", show_default=False
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Undo it. A night that runs goes on.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Only print what would be written, or removed.")] = False,
) -> Iterator[Text]:
    """Have a study that was begun go on by itself after every boot, or every day at a certain time.

    Writes a systemd user unit and enables it; where there is no systemd, says the line for your crontab.
    """
    from search import install as installing

    if remove:
        lines = installing.removable(study) if show else installing.remove(study)
    else:
        job = installing.job(study, at, until, budget)
        lines = installing.shown(job) if show else installing.install(job)
    yield from map(Text, lines)  # as they are: a path may hold what Rich takes for an emoji
