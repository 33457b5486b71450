"""The card of this machine, as NVIDIA's driver describes it. Imports no torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

DRIVER_PATIENCE_S = 30.0


class NoCard(Exception):
    """There is no card that can be used; the message says what the driver said."""


@dataclass(frozen=True)
class Card:
    """The first NVIDIA GPU."""

    name: str
    memory_bytes: int
    driver: str


def card() -> Card:
    """The first card that NVIDIA's driver knows. Raises NoCard where there is no driver or no card."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoCard("there is no nvidia-smi, so no NVIDIA driver is installed")
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCard(f"nvidia-smi does not answer: {error}") from None
    said = (answer.stdout + answer.stderr).strip().splitlines()
    if answer.returncode or not said:
        raise NoCard(f"nvidia-smi failed: {said[0] if said else f'exit code {answer.returncode}'}")
    return _card(said[0])


def _card(line: str) -> Card:
    """One line of nvidia-smi's answer: `NVIDIA GeForce RTX 4070 Ti, 12282, 550.54.14`."""
    parts = [part.strip() for part in line.rsplit(",", 2)]
    if len(parts) != 3 or not parts[1].isdigit():
        raise NoCard(f"nvidia-smi said {line!r}")
    return Card(name=parts[0], memory_bytes=int(parts[1]) * 2**20, driver=parts[2])
