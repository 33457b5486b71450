"""The commands about what is handed in: export, push, bundle. They give what is to be shown; search.cli shows it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from search.cli_options import AnyStudy, complete_study


class Format(StrEnum):
    """What an adapter is exported as."""

    adapter = "adapter"
    merged = "merged"
    gguf = "gguf"


class Pushed(StrEnum):
    """What is uploaded."""

    adapter = "adapter"
    merged = "merged"


Trained = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY|RUN",
        help="A study, which means its final run, or a run's folder, such as STUDY/runs/003.",
        autocompletion=complete_study,
        show_default=False,
    ),
]


def export(
    study: Trained = None,
    form: Annotated[
        Format, typer.Option("--format", help="PEFT's format, whole weights as safetensors, or GGUF.")
    ] = Format.adapter,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="By default RUN/export/FORMAT. Has to be empty.", show_default=False),
    ] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="llama.cpp's source, whose converter makes GGUF.", show_default=False),
    ] = None,
) -> Iterator[Text]:
    """Write a trained adapter in a form that other programs take, with a model card from the records.

    Merged: into the base model's own weights, in its own precision, with tokenizer, configuration and chat template.
    """
    from search import export as exporting
    from search import export_subject
    from search.screen import Screen

    folder = exporting.export(export_subject.find(study), form.value, out, llama_cpp, Screen().say)
    yield Text(f"wrote {folder}: read its {exporting.CARD}, and say in it under which licence you offer the model")


def push(
    study: Annotated[str, typer.Argument(metavar="STUDY|RUN", help="A study, which means its final run, or a run.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="A repository on the hub, like name/model.")],
    form: Annotated[Pushed, typer.Option("--format", help="What is uploaded.")] = Pushed.adapter,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it. By default you alone.")] = False,
) -> Iterator[Text]:
    """Upload a trained adapter, or the merged model, to the hub: private, with the token that `hf auth login` keeps."""
    from search import export_subject
    from search import push as pushing
    from search.screen import Screen

    address = pushing.push(export_subject.find(study), repo, form.value, public=public, say=Screen().say)
    yield Text(f"uploaded to {address}" + ("" if public else ", which nobody but you sees"))


def bundle(
    study: AnyStudy = None,
    merged: Annotated[bool, typer.Option("--merged", help="Put the merged model in, too.")] = False,
    carry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Put in this file of yours (a data source, or 'base'), whatever its licence or size; may be repeated.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="By default STUDY/NAME-bundle.tar.gz.", show_default=False),
    ] = None,
) -> Iterator[Text]:
    """Pack a finished final run: all that somebody else needs to look at it and to make it again, with reproduce.sh."""
    from search import bundle as bundling
    from search import home
    from search.screen import Screen

    made = bundling.bundle(home.folder(study), out, merged=merged, carry=carry or (), say=Screen().say)
    yield Text(f"wrote {made.path}: unpack it on another machine, and run its reproduce.sh")
    for line in made.not_in_it:
        yield Text(line)
    if open_ones := made.report.blanks:
        yield Text(
            f"its report has places to fill in: {', '.join(open_ones)}; answer them in {made.report.answers}, and make "
            "the bundle again"
        )
    for problem in made.report.problems:
        yield Text(f"{problem}, and its report does without: put the file back from a copy")
