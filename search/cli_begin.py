"""The commands that come before a night: rehearse, init, plan, fetch. They give what is to be shown; search.cli shows
it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from search.cli_models import Plain, Shown
from search.cli_options import StudyFile, complete_preset, gib


def rehearse(
    seed: Annotated[int, typer.Option(help="Makes the world, and drives the search.", min=0, max=2**31 - 1)] = 0,
    home: Annotated[Path, typer.Option(help="Where the rehearsal lies; it goes on with what is there.")] = Path(
        "rehearsal"
    ),
) -> Shown:
    """Run the whole line on a tiny model, on the CPU, in minutes: search, freeze, final run, report."""
    from search import rehearse as rehearsal
    from search.screen import Screen, rehearsed

    yield rehearsed(rehearsal.run(home, seed, Screen()))
    yield Text("\nNow on real hardware:\n\n    nightshift init --preset rtx-4070-ti\n")


def init(
    directory: Annotated[Path, typer.Argument(help="The folder that gets a study.toml.")] = Path("."),
    preset: Annotated[
        str, typer.Option(help="What to begin with: rehearsal or rtx-4070-ti.", autocompletion=complete_preset)
    ] = "rtx-4070-ti",
) -> Shown:
    """Write a commented study.toml. Never overwrites one."""
    from search import home

    path = home.write_preset(preset, directory)
    world = shlex.quote(str(path.parent / "world"))
    first = f"    {home.python()} -P -m train.rehearsal {world}\n" if preset == "rehearsal" else ""
    start = f"    nightshift start {shlex.quote(str(path))}\n"
    yield Text(f"wrote {path}: read it, set what is yours, then run\n\n{first}{start}")


def plan(
    study: StudyFile,
    memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", callback=gib, help="Plan for a card with that much memory.", show_default=False),
    ] = None,
    card: Annotated[
        str | None, typer.Option(metavar="NAME", help="Plan for this card, like 'RTX 4070 Ti'.", show_default=False)
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Plan on this base model instead; may be repeated.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, one object a base.")] = False,
) -> Shown:
    """Show what a study's recipes, or one recipe, cost before they run: parameters, memory, time, and what fits.

    STUDY may also be a run's folder, its recipe.json, or a final_run.py.
    """
    from search import plan_subject, plan_view

    plans, scored_s = plan_subject.plans(study, base or [], memory, card)
    if as_json:
        yield Plain([plan_view.as_json(each, scored_s) for each in plans])
    else:
        for each in plans:
            yield plan_view.render(each, scored_s)


def fetch(study: StudyFile) -> Shown:
    """Bring what a night needs while there is a network: base model, tokenizer, data, nltk's punkt_tab.

    What is there already stays as it is; run it again after whatever failed.
    """
    from search import fetch as fetching
    from search import home

    yield from map(Text, fetching.bring(*home.study(study)))
