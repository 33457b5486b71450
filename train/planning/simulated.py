"""What a simulation is asked and what it answers, and the process that runs one. No torch; see `simulate`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from train.base import BaseFacts, cache_folder
from train.recipe import Frozen, RecipeError
from train.rundir import write_atomic

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl")
_SOURCES = ("planning/fakes.py", "planning/simulate.py", "planning/simulated.py", "sft.py", "packing.py")


class Shape(Frozen):
    """Everything that decides the memory of a training step, or of answering `micro_batch_size` prompts of `length`
    tokens at once with `new_tokens` each (stage "answer", which nothing is checkpointed in).

    The last four fields are ours by default; others describe foreign trainers whose measurements are compared with:
    `upcast` is what peft's prepare_model_for_kbit_training does (all that is not 4-bit in float32, no autocast),
    `full_logits` is the model's own loss.
    """

    config: dict[str, Any]
    layers: int
    device: Literal["cuda", "cpu"] = "cuda"
    stage: Literal["sft", "dpo", "answer"] = "sft"
    micro_batch_size: int = 1
    length: int = 1024
    new_tokens: int = 1
    packing: bool = True
    accumulates: bool = True
    rank: int = 16
    targets: tuple[str, ...] | str = ()
    dropout: bool = False
    dora: bool = False
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    checkpointing: bool = True
    uncheckpointed_layers: int = 0
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    double_quantization: bool = True
    upcast: bool = False
    full_logits: bool = False


class Simulation(Frozen):
    """Bytes of tensors at the peak of a step, by category, and the peaks of the step's phases.

    The device's context and the libraries' own buffers are not in it.
    """

    peak_bytes: int
    memory: dict[str, int]
    phase: str
    phases: dict[str, int]


def simulated(shapes: Sequence[Shape]) -> list[Simulation]:
    """The simulation of each shape, in a process of its own; those simulated before come out of the cache.

    Raises RecipeError where the installed libraries cannot run a step of such a model.
    """
    files = [_cached(shape) for shape in shapes]
    known = [_read(file) for file in files]
    for device in ("cuda", "cpu"):  # a process makes one device's choices for good
        places = [n for n, found in enumerate(known) if found is None and shapes[n].device == device]
        for place, answer in zip(places, _run([shapes[n] for n in places]) if places else (), strict=True):
            known[place] = answer
            with suppress(OSError):  # a cache that cannot be written costs time and nothing else
                files[place].parent.mkdir(parents=True, exist_ok=True)
                write_atomic(files[place], answer.model_dump_json())
    return [found for found in known if found is not None]


def config_of(facts: BaseFacts) -> dict[str, Any]:
    """A config.json with the sizes in `facts`, as far as memory depends on it."""
    config: dict[str, Any] = {
        "model_type": facts.model_type,
        "hidden_size": facts.hidden,
        "intermediate_size": facts.intermediate,
        "num_attention_heads": facts.heads,
        "num_key_value_heads": facts.kv_heads,
        "head_dim": facts.head_dim,
        "vocab_size": facts.vocab,
        "max_position_embeddings": facts.context,
        "tie_word_embeddings": facts.tied,
    }
    return config | ({"sliding_window": None} if facts.model_type == "mistral" else {})


def _run(shapes: Sequence[Shape]) -> list[Simulation]:
    asked = json.dumps([shape.model_dump(mode="json") for shape in shapes])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "train.planning.simulate"],
        input=asked,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RecipeError(
            f"a training step of this {shapes[0].config.get('model_type')} model cannot be simulated: "
            f"{said[-1] if said else f'exit code {done.returncode}'}; plan without simulation"
        )
    return [Simulation.model_validate_json(line) for line in done.stdout.splitlines()]


def _cached(shape: Shape) -> Path:
    parts = [shape.model_dump_json(), *(f"{name} {version(name)}" for name in _LIBRARIES), _our_digest()]
    return cache_folder() / "simulations" / hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _our_digest() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parents[1] / name).read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> Simulation | None:
    with suppress(OSError, ValueError):
        return Simulation.model_validate_json(file.read_text(encoding="utf-8"))
    return None
