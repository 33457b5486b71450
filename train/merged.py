"""The merged model of a final run, for as long as it is looked at: made, loaded, and removed again.

It lies in the run's folder as `merged/`, whole once it is there, and what merging told of it in merged.json.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from train.merging import merge
from train.model import COMPUTE_DTYPE, LoadedBase, load_base
from train.recipe import Base, Recipe
from train.rundir import Json, RunDir, read_json, write_json

ROOM = 1.3  # of the weights' bytes are taken while it answers, at least
SPARE = 2**30


@contextmanager
def merged(recipe: Recipe, run: RunDir, device: str) -> Iterator[tuple[LoadedBase, Json]]:
    """The adapter of `run` in its base model, loaded on `device`, and what is known of it.

    Beside what `merge` tells that is `weights`, in which it is loaded: COMPUTE_DTYPE where the device has memory for
    it, else "nf4", as the base model was. An earlier start's is taken as it is. The files are removed at
    the end, and left only where the process is stopped. Raises RecipeError. The base model has to have been let go of.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    folder, told = run.path / "merged", run.path / "merged.json"
    made = read_json(told) if folder.is_dir() else None
    try:
        if made is None:
            shutil.rmtree(folder, ignore_errors=True)
            made = merge(recipe.base, run.adapter, folder, recipe.chat_template)
            write_json(told, made)
        full = holds(device, made["parameters"])
        base = Base(model=str(folder), allow_instruct=True)
        loaded = load_base(base, recipe.threads, device, quantize=not full)
        precision = str(COMPUTE_DTYPE[device]).removeprefix("torch.")
        yield loaded, {**made, "weights": precision if full else "nf4"}
        _remove(folder, told)
    except Exception:  # what stops the process leaves them for its next start
        _remove(folder, told)
        raise


def _remove(folder: Path, told: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    told.unlink(missing_ok=True)


def holds(device: str, parameters: int) -> bool:
    """Whether the memory that is free now on `device` has room for so many parameters in COMPUTE_DTYPE."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else _available()
    return free > ROOM * COMPUTE_DTYPE[device].itemsize * parameters + SPARE


def _available() -> int:
    """Bytes that Linux could give to a process now."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
