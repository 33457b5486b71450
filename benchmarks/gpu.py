"""`make bench-gpu`: three real shapes on a CUDA card held to 12 GB: peak memory against the plan, speed, longest row.

Each model is written in Hugging Face format with random weights (15 GB of disk at a time) and goes through the
product's own loader and training loop. Without a card it says so and ends with exit code 2.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from safetensors.torch import save_file
from table import Figure, publish

from train.base import BaseFacts, facts_of_config
from train.data.splits import ProbeRow, Splits
from train.loop import OutOfMemory, train
from train.model import LoadedBase, drop_adapter, load_base
from train.planning.fitting import least_checkpointed
from train.planning.plan import plan
from train.recipe import Base, Recipe, Source
from train.rehearsal_base import train_tokenizer
from train.rundir import RunDir

CARD_BYTES = 12 * 2**30
STEPS, WARMED_UP = 12, 4
LENGTHS = (1024, 2048)
WITHIN = 0.03  # of the plan
STRIDE = 256  # tokens between the lengths that are tried

SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral",
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class Measured:
    """One run: bytes that torch's allocator held at the peak, and tokens a second after the first steps."""

    peak_bytes: int
    tokens_per_second: float


def write_random_model(shape: Mapping[str, Any], folder: Path) -> None:
    """A model of this shape with random bfloat16 weights, one file a module below the top, and a tokenizer."""
    words = [(f"word {number}", f"answer {number}") for number in range(500)]
    tokenizer = train_tokenizer(words)
    tokenizer.save_pretrained(folder)
    values = {**shape, "dtype": "bfloat16", "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = transformers.AutoConfig.for_model(**values, eos_token_id=tokenizer.eos_token_id)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    files: dict[str, list[str]] = {}
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    for name in model.state_dict():
        if name not in tied:
            files.setdefault("-".join(name.split(".")[:3]), []).append(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for part, names in files.items():
        tensors = {name: torch.randn(shapes[name], dtype=torch.bfloat16) * 0.02 for name in names}
        save_file(tensors, folder / f"{part}.safetensors", metadata={"format": "pt"})
    weight_map = {name: f"{part}.safetensors" for part, names in files.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def recipe_of(folder: Path, length: int, **fields: Any) -> Recipe:
    """The 4070 Ti preset's kind of recipe, with rows of one length, one at a time."""
    usual: dict[str, Any] = {
        "examples": STEPS,
        "batch_size": 1,
        "max_length": length,
        "rank": 16,
        "dropout": 0.05,
        "optimizer": "paged_adamw_8bit",
        "gradient_checkpointing": True,
    }
    base, sources = Base(model=str(folder)), (Source(name="made", path="made.jsonl"),)
    return Recipe(base=base, sources=sources, **{**usual, **fields})


def measure(loaded: LoadedBase, recipe: Recipe) -> Measured:
    """Train `recipe` on rows of the greatest length. Raises OutOfMemory."""
    draw, size = random.Random(0), 768
    ids = [[draw.randrange(5, size) for _ in range(recipe.max_length)] for _ in range(recipe.examples)]
    rows = datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in ids])
    splits = Splits(rows, None, (ProbeRow([5, 6, 7], [-100, 6, 7], 2),), {})
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        trained = train(recipe, run, loaded, splits=splits, rungs=())
        drop_adapter(trained.model)
        ends = [event["seconds"] for event in run.read_events() if event["event"] == "step"]
    seconds = [after - before for before, after in zip(ends[WARMED_UP:], ends[WARMED_UP + 1 :], strict=False)]
    return Measured(trained.peak_memory_bytes, recipe.batch_size * recipe.max_length / statistics.median(seconds))


def longest(loaded: LoadedBase, folder: Path, upper: int) -> int:
    """The longest row, in STRIDE tokens, that trains without running out of memory; `upper` does not."""
    low, high = 0, upper // STRIDE
    while high - low > 1:
        middle = (low + high) // 2
        try:
            measure(loaded, recipe_of(folder, middle * STRIDE, examples=WARMED_UP + 2))
            low = middle
        except OutOfMemory:
            high = middle
    return low * STRIDE


def figures_of(name: str, shape: Mapping[str, Any], device: str = "cuda") -> list[Figure]:
    """One model's figures."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / name
        write_random_model(shape, folder)
        loaded = load_base(Base(model=str(folder)), 1, device)
        facts = facts_of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        for length in LENGTHS:
            every = recipe_of(folder, length)
            chosen = least_checkpointed(every, facts, "cuda", CARD_BYTES)
            kept = chosen.uncheckpointed_layers if chosen.gradient_checkpointing else facts.layers
            found += compared(f"{name}, {length} tokens", loaded, every, facts)
            found += compared(f"{name}, {length} tokens, {kept} layers kept", loaded, chosen, facts)
        length = longest(loaded, folder, 32768)
        found.append(Figure(f"{name}: longest row", f"{length:,} tokens", "-", "-", length >= max(LENGTHS)))
        del loaded
        torch.cuda.empty_cache()
    for figure in found:
        print(figure.line, flush=True)
    return found


def compared(title: str, loaded: LoadedBase, recipe: Recipe, facts: BaseFacts) -> list[Figure]:
    """The peak against the plan, and the speed, of one recipe."""
    planned = plan(recipe, facts, "cuda")
    expected = planned.peak_bytes - planned.memory["context"]
    measured = measure(loaded, recipe)
    error = measured.peak_bytes / expected - 1
    gib = f"{measured.peak_bytes / 2**30:.2f} GiB ({error:+.1%} of the plan)"
    planned_gib = f"planned {expected / 2**30:.2f} GiB"
    return [
        Figure(f"{title}: peak", gib, planned_gib, f"{WITHIN:.0%}", abs(error) <= WITHIN),
        Figure(f"{title}: tokens a second", f"{measured.tokens_per_second:,.0f}", "-", "-", True),
    ]


def main() -> int:
    """Measure every model on a card held to 12 GB, then publish."""
    if not torch.cuda.is_available():
        print("bench-gpu needs a CUDA card, and torch sees none: check nvidia-smi", file=sys.stderr)
        return 2
    if shutil.disk_usage(tempfile.gettempdir()).free < 20 * 2**30:
        print(f"bench-gpu needs 20 GiB in {tempfile.gettempdir()}: make room or set TMPDIR", file=sys.stderr)
        return 2
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    card = torch.cuda.get_device_properties(0)
    torch.cuda.set_per_process_memory_fraction(min(1.0, CARD_BYTES / card.total_memory))
    found = [figure for name, shape in SHAPES.items() for figure in figures_of(name, shape)]
    publish("gpu", f"On a {card.name} held to 12 GiB", found, "Random weights, rank 16 on all linear layers.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
