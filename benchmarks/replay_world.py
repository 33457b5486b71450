"""The files that a replayed study is made of: what the service reads of a base model, of data and of prompts.

The base model has the rehearsal's shape and no weights worth the name; the data is a few rows. Nobody trains on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from objectives.score import Prompt
from search import home

HIDDEN, INNER, LAYERS, VOCABULARY = 128, 384, 3, 768
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
ATTENTION = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (HIDDEN, HIDDEN))
MLP = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}


def write(folder: Path, prompts: Sequence[Prompt], *, seed: int, priors: bool = True, **study: Any) -> Path:
    """Make the rehearsal's study with these prompts in `folder`, with its hand-picked recipes or without; returns its
    study.toml. `study` has values of its [study], like trials=20."""
    world = folder / "world"
    _base(world / "base")
    rows = [{"prompt": f"Say {n}", "response": str(n)} for n in range(80)]
    pairs = [{"prompt": f"Say {n}", "chosen": str(n), "rejected": "no"} for n in range(20)]
    for name, lines in {"clean": rows, "noisy": rows[::-1], "preferences": pairs}.items():
        (world / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (world / "prompts.jsonl").write_text("".join(p.model_dump_json() + "\n" for p in prompts), encoding="utf-8")
    text = home.preset("rehearsal")
    for name, value in {"seed": seed, **study}.items():
        text, changed = re.subn(rf"(?m)^{name} = [^ ]+", f"{name} = {value}", text, count=1)
        assert changed, name
    if not priors:
        text = text[: text.index("[[prior]]")] + text[text.index("[pruner]") :]
    (folder / home.STUDY_FILE).write_text(text, encoding="utf-8")
    return folder / home.STUDY_FILE


def _base(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    _tokenizer(folder)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}.weight": shape for name, shape in ATTENTION.items()}
        shapes |= {f"{at}.mlp.{name}.weight": shape for name, shape in MLP.items()}
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, folder / "model.safetensors")


def _tokenizer(folder: Path) -> None:
    settings: Mapping[str, Any] = {"eos_token": "<end>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    words = Tokenizer(WordLevel({"<end>": 0}, unk_token="<end>"))
    words.pre_tokenizer = Whitespace()
    words.add_special_tokens(["<end>"])
    words.save(str(folder / "tokenizer.json"))
