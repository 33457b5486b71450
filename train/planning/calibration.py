"""What a card takes beside torch's tensors, measured once on the user's own and kept in the cache. No torch.

`python -m train.planning.simulate calibrate` measures. Until then a plan assumes `ASSUMED`.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from pathlib import Path

from train.base import cache_folder
from train.recipe import Frozen, RecipeError
from train.rundir import write_atomic

MIB = 2**20
# CUDA: a context (141 MiB on a T4, 300 to 500 told of newer cards) and two cuBLAS workspaces of 32 MiB, as
# CUBLAS_WORKSPACE_CONFIG=:4096:8 has them. CPU: the interpreter and the libraries.
ASSUMED = {"cuda": 486 * MIB, "cpu": 700 * MIB}


class Calibration(Frozen):
    """Bytes of one card that no tensor explains: the context outside of torch, the workspaces inside of it."""

    card: str
    torch: str
    context_bytes: int
    constant_bytes: int


def context_bytes(device: str, card: str | None = None) -> tuple[int, bool]:
    """What to add to a plan's tensors, and whether it was measured on this card."""
    if device == "cuda" and card and (found := known(card)):
        return found.context_bytes + found.constant_bytes, True
    return ASSUMED[device], False


def known(card: str) -> Calibration | None:
    """The calibration of a card by its name, where it was measured."""
    with suppress(OSError, ValueError):
        return Calibration.model_validate_json(_file(card).read_text(encoding="utf-8"))
    return None


def keep(measured: Calibration) -> None:
    """Put a calibration where `known` finds it."""
    file = _file(measured.card)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, measured.model_dump_json())


def _file(card: str) -> Path:
    return cache_folder() / "calibrations" / (re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json")


def used_bytes() -> int:
    """Bytes of the first card that are taken, by whomever."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        return int(answer.splitlines()[0]) * MIB
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise RecipeError(f"nvidia-smi does not tell the memory in use ({error}); mend NVIDIA's driver") from None
