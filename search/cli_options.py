"""What the options and arguments of the command have in common: their checks, and how a shell completes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from search.errors import ConfigError
from train.until import is_time


def complete_study(incomplete: str) -> list[str]:
    """The studies and study files that begin so."""
    from search import home

    files = [str(path) for path in Path().glob("*.toml") if path.name != "pyproject.toml"]
    return [name for name in [*home.names(), *files] if name.startswith(incomplete)]


def complete_preset(incomplete: str) -> list[str]:
    """The presets that begin so."""
    from search import home

    return [name for name in home.preset_names() if name.startswith(incomplete)]


def time_of_day(value: str | None) -> str | None:
    """03:00."""
    if value is not None and not is_time(value):
        raise ConfigError(f"{value!r} is no time of day like 03:00, from 00:00 to 23:59")
    return value


def hours(value: float | None) -> float | None:
    """A length of time."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is no number of hours above 0")
    return value


def gib(value: float | None) -> float | None:
    """A size of memory."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is no number of GiB above 0")
    return value


StudyFile = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study.toml, or the name of a study.", autocompletion=complete_study)
]
AnyStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY",
        help="A study.toml, or the name of a study; by default ./study.toml or the only study there is.",
        autocompletion=complete_study,
        show_default=False,
    ),
]
