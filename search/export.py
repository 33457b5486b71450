"""A trained adapter as others take it: in PEFT's format, merged into its base model, or as GGUF. Imports no torch.

An export is made beside its place and moved there whole. What was stopped leaves a folder `.tmp-...`, which the next
export removes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from search.errors import SearchError, WorkerFailed
from search.export_card import card
from search.export_subject import Subject
from search.score_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from train import companions, room
from train.rundir import Json, fsync_folder, read_json, write_atomic, write_json
from train.shards import json_object

Form = Literal["adapter", "merged", "gguf"]
CONVERTER = "convert_hf_to_gguf.py"
CARD = "README.md"
TAIL_LINES = 12  # of what a converter that failed said
Say = Callable[[str], None]


def export(
    subject: Subject,
    form: Form,
    out: Path | None,
    llama_cpp: Path | None = None,
    say: Say = lambda _: None,
    base: str | None = None,
) -> Path:
    """Write the adapter of `subject` in that form, with its card, as the folder `out`, and return that folder.

    `base` is what the adapter's configuration calls its base model, where it is not to be what it was trained on.

    Raises SearchError where `out` holds something, for want of llama.cpp's converter, or where merging or converting
    fails; RecipeError where the disk has no room.
    """
    converter = _converter(llama_cpp) if form == "gguf" else None
    target = out or subject.run.path / "export" / form
    _check_empty(target)
    room.check(target, needed(subject, form))
    staged = target.absolute().with_name(f".tmp-{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
    except OSError as error:
        raise SearchError(f"{target} cannot be made ({error.strerror}); give another folder with --out") from None
    try:
        if form == "adapter":
            write_adapter(subject, staged, base)
        else:
            say(f"merging the adapter into {subject.recipe.base.model}")
            merge(subject, staged)
        if converter is not None:
            say(f"converting to GGUF with {converter}")
            _to_gguf(subject, staged, converter)
        write_atomic(staged / CARD, card(subject, form))
        os.replace(staged, target)
        fsync_folder(target.absolute().parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def needed(subject: Subject, form: Form) -> int:
    """Bytes of an export, with what is made on the way."""
    weights = {"adapter": 0, "merged": 1, "gguf": 2}[form] * room.merged_bytes(subject.model.facts)
    return weights + sum(path.stat().st_size for path in subject.adapter.iterdir())


def _check_empty(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        what = "is not empty" if target.is_dir() else "is a file"
        raise SearchError(
            f"{target} {what}, and is left as it is: give another folder with --out, or remove it: "
            f"{shlex.join(['rm', '-r', str(target)])}"
        )


# The adapter


def write_adapter(subject: Subject, folder: Path, base: str | None = None) -> None:
    """The adapter as it was trained, with tokenizer and template; `base` is what its configuration calls the base."""
    shutil.copyfile(subject.adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    config = json_object(subject.adapter / ADAPTER_CONFIG)
    write_json(folder / ADAPTER_CONFIG, config if base is None else {**config, "base_model_name_or_path": base})
    source = Path(str(subject.model.facts.folder))
    companions.copy(source, folder, subject.recipe.chat_template, configuration=False)


# Merged


def merge(subject: Subject, folder: Path) -> Json:
    """The merged model in `folder`, which is replaced, made by a process of its own; returns what that tells."""
    job, result = folder.with_name(f"{folder.name}.job.json"), folder.with_name(f"{folder.name}.result.json")
    shutil.rmtree(folder, ignore_errors=True)
    asked = {"base": subject.model.base.model_dump(mode="json"), "chat_template": subject.recipe.chat_template}
    paths = {"adapter": str(subject.adapter.absolute()), "out": str(folder), "result": str(result)}
    write_json(job, {**asked, **paths})
    try:
        _run([sys.executable, "-P", "-m", "train.merging", str(job)], "merging")
        made = read_json(result)
    finally:
        job.unlink()
    result.unlink()
    assert made is not None
    return made


def _run(command: list[str], what: str) -> None:
    made = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = "\n".join(made.stderr.splitlines()[-TAIL_LINES:])
    if made.returncode == 2 and what == "merging":
        raise SearchError(said)
    if made.returncode:
        code = made.returncode
        how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        raise WorkerFailed(f"{what} failed ({how}):\n{said}")


# GGUF


def _converter(llama_cpp: Path | None) -> Path:
    if llama_cpp is None:
        raise SearchError(
            "--format gguf needs llama.cpp's converter: clone ggml-org/llama.cpp from GitHub, install what its "
            "requirements/requirements-convert_hf_to_gguf.txt names, and add --llama-cpp FOLDER"
        )
    if not (llama_cpp / CONVERTER).is_file():
        raise SearchError(
            f"--llama-cpp {llama_cpp}: there is no {CONVERTER} in it; give the folder of llama.cpp's source"
        )
    return llama_cpp.absolute() / CONVERTER


def _to_gguf(subject: Subject, folder: Path, converter: Path) -> None:
    """Replace the merged model in `folder` by one GGUF file, in the precision that comes nearest to its own."""
    merged = folder.with_name(f"{folder.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    os.replace(folder, merged)
    try:
        folder.mkdir()
        file = folder / f"{subject.name}.gguf"
        _run([sys.executable, str(converter), str(merged), "--outfile", str(file), "--outtype", "auto"], "converting")
        if not file.is_file():
            raise WorkerFailed(f"{converter} ended without {file.name}; use llama.cpp's converter of another version")
    finally:
        shutil.rmtree(merged, ignore_errors=True)
