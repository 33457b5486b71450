"""The sizes of well-known base models, so that they can be planned for before they are fetched. Values of their
config.json files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.base import BaseFacts, facts_of_config, inspect_base
from train.recipe import RecipeError

_NAMES = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "tie_word_embeddings"),
)
_SIZES: dict[str, tuple[Any, ...]] = {
    "meta-llama/Llama-3.1-8B": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, 131072, False),
    "meta-llama/Llama-3.2-3B": ("llama", 3072, 8192, 28, 24, 8, 128, 128256, 131072, True),
    "meta-llama/Llama-3.2-1B": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, 131072, True),
    "mistralai/Mistral-7B-v0.3": ("mistral", 4096, 14336, 32, 32, 8, 128, 32768, 32768, False),
    "Qwen/Qwen2.5-7B": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 131072, False),
    "Qwen/Qwen2.5-3B": ("qwen2", 2048, 11008, 36, 16, 2, 128, 151936, 32768, True),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, 131072, True),
    "Qwen/Qwen2.5-0.5B": ("qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, True),
}
SHAPES = {name: dict(zip(_NAMES, sizes, strict=True)) for name, sizes in _SIZES.items()}


def shape_of(model: str, revision: str | None = None) -> BaseFacts:
    """The sizes of a base model, wherever they are quickest to have: known by its id, in a folder's config.json, or as
    `inspect_base` finds them. Its weights need not be there.

    Raises RecipeError as `inspect_base` does.
    """
    known = {name.lower(): config for name, config in SHAPES.items()}.get(model.lower())
    if known:
        return facts_of_config(known)
    file = Path(model).expanduser() / "config.json"
    if file.exists():
        try:
            return facts_of_config(json.loads(file.read_text(encoding="utf-8")))
        except (RecipeError, ValueError, AttributeError):
            pass  # not of the Llama family, or not JSON: the whole inspection says so, or knows better
    return inspect_base(model, revision)
