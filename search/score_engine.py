"""What makes the answers of a score: Nightshift itself, or vLLM in an environment of its own. Imports no torch."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from search.errors import SearchError

PYTHON_VARIABLE = "NIGHTSHIFT_VLLM_PYTHON"
BATCH = {"nightshift": 16, "vllm": 128}  # prompts at once, where nothing else is asked
PATIENCE_S = 60.0
MAKE_ONE = (
    "make one (python3 -m venv ~/vllm && ~/vllm/bin/pip install vllm bitsandbytes) and name its python: --vllm-python "
    "~/vllm/bin/python"
)
ASK = "from importlib.metadata import version; print(version('vllm'))"


@dataclass(frozen=True)
class Engine:
    """`python` is that of vLLM's environment, None for Nightshift's own generator; `name` goes to the settings."""

    name: str = "nightshift"
    python: str | None = None


OWN = Engine()


def engine(name: str, python: str | None) -> Engine:
    """The engine that is asked for. Raises SearchError where vLLM is meant and `python` has none."""
    if name == OWN.name:
        return OWN
    if not python:
        raise SearchError(
            f"--engine vllm: vLLM pins a torch of its own, so it lives in an environment of its own; {MAKE_ONE}, or "
            f"{PYTHON_VARIABLE}"
        )
    python = os.path.expanduser(python)
    if Path(python).absolute().parent == Path(sys.executable).absolute().parent:
        raise SearchError(
            f"--vllm-python {python} is Nightshift's own environment, where vLLM would replace its torch; {MAKE_ONE}"
        )
    return Engine(f"vllm {_version(python)}", python)


def _version(python: str) -> str:
    """The version of vLLM that `python` has."""
    try:
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        command = [python, "-c", ASK]
        answer = subprocess.run(
            command, stdin=nothing, stdout=pipe, stderr=pipe, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SearchError(
            f"{python} does not answer within {PATIENCE_S:.0f} s; name another one with --vllm-python"
        ) from None
    except OSError as error:
        raise SearchError(
            f"{python} cannot be started ({error.strerror}); give the python of an environment that has vLLM with "
            "--vllm-python"
        ) from None
    said = (answer.stdout if answer.returncode == 0 else answer.stderr).strip().splitlines()
    if answer.returncode == 0 and said:
        return said[-1]
    if answer.returncode == 0:
        raise SearchError(f"{python} is no python: asked for vLLM's version it said nothing; {MAKE_ONE}")
    install = shlex.join([python, "-m", "pip", "install", "vllm", "bitsandbytes"])
    why = said[-1] if said else f"exit code {answer.returncode}"
    raise SearchError(f"{python} has no vLLM ({why}); install it there: {install}; or name another with --vllm-python")
