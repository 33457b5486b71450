"""The commands about what is handed in: export, push, bundle. They give what is to be shown; search.cli shows it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from search.cli_options import complete_study


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

    said: list[str] = []
    folder = exporting.export(export_subject.find(study), form.value, out, llama_cpp, said.append)
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

    address = pushing.push(export_subject.find(study), repo, form.value, public=public, say=lambda _: None)
    yield Text(f"uploaded to {address}" + ("" if public else ", which nobody but you sees"))
