"""Facts about a base model, read from its files: config.json, the tokenizer and the headers of its safetensors.

Imports no torch. Nothing of a model is executed or loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from train.hub import hub_folder
from train.recipe import Frozen, RecipeError, Sha256, Targets
from train.rundir import write_atomic

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGET_MODULES: dict[Targets, tuple[str, ...]] = {
    "all-linear": ATTENTION + MLP,
    "attention": ATTENTION,
    "attention-qv": ("q_proj", "v_proj"),
    "mlp": MLP,
}

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
_HUB_LEFT_OUT = ("*/*", "consolidated*")  # a second copy of the weights in another layout
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_DIGESTED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json"),
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LAYER_MATRIX = re.compile(r"\.(\d+)\..*?(\w+)\.weight$")  # model.layers.0.self_attn.q_proj.weight

Shapes = dict[str, tuple[int, ...]]


class Linear(Frozen):
    """One kind of linear layer inside the decoder's layers; `count` of them have these sizes."""

    name: str
    inputs: int
    outputs: int
    count: int


class BaseFacts(Frozen):
    """What is known of a base model without loading it. `parameters` counts tied embeddings once.

    `linears` are the matrices inside the decoder layers: what becomes 4-bit, and what LoRA may be put on. `context` is
    the largest number of positions. `sha256` covers configuration, tokenizer and weights; it, `folder` and `revision`
    (a hub model's commit) are None where the facts come from a configuration alone.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    tied: bool
    parameters: int
    linears: tuple[Linear, ...]
    has_chat_template: bool = False
    sha256: Sha256 | None = None
    folder: str | None = None
    revision: str | None = None

    @property
    def linear_parameters(self) -> int:
        """Elements of all matrices inside the decoder layers."""
        return sum(linear.inputs * linear.outputs * linear.count for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Elements of the input embedding and, where it is not tied to it, the output head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)


def inspect_base(model: str, revision: str | None = None, sha256: str | None = None) -> BaseFacts:
    """Facts about the model in the folder `model` or, where there is no such folder, of that hub id.

    Raises RecipeError, with what is there and what to do, for a model that Nightshift cannot train: no folder, no
    config.json, no tokenizer, pickled or torn weights, not a plain causal language model, or (where `sha256` is given)
    not the files that were pinned. Digests of weight files are cached by path, size and time of change.
    """
    folder, commit = _locate(model, revision)
    config = _config(folder)
    _check_kind(folder, config)
    _check_tokenizer(folder)
    weights = _weight_files(folder)
    facts = _facts(config, _shapes(weights), folder)
    digest = _digest(folder, weights)
    if sha256 is not None and digest != sha256:
        raise RecipeError(
            f"{folder} is not the model that was pinned: sha256 is {digest}, not {sha256}; "
            "get the pinned files again, or start a new study on these"
        )
    return facts.model_copy(update={"sha256": digest, "folder": str(folder), "revision": commit})


def facts_of_config(config: Mapping[str, Any]) -> BaseFacts:
    """Facts about a Llama-like model from the values of its config.json alone (no file is read).

    Raises RecipeError where a size is missing.
    """
    sizes = _sizes(config)
    hidden, attention, kv = sizes["hidden"], sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    shapes = {
        "q_proj": (hidden, attention),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (attention, hidden),
        "gate_proj": (hidden, sizes["intermediate"]),
        "up_proj": (hidden, sizes["intermediate"]),
        "down_proj": (sizes["intermediate"], hidden),
    }
    tied = bool(config.get("tie_word_embeddings", False))
    linears = tuple(Linear(name=n, inputs=i, outputs=o, count=sizes["layers"]) for n, (i, o) in shapes.items())
    biases = sizes["layers"] * (attention + 2 * kv) if config.get("model_type") == "qwen2" else 0
    norms = hidden * (2 * sizes["layers"] + 1)
    matrices = sum(linear.inputs * linear.outputs * linear.count for linear in linears)
    embeddings = sizes["vocab"] * hidden * (1 if tied else 2)
    return BaseFacts(
        model_type=str(config.get("model_type", "")),
        **sizes,
        tied=tied,
        parameters=matrices + embeddings + norms + biases,
        linears=linears,
    )


# Where the files are


def _locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    path = Path(model).expanduser()
    if path.is_dir():
        return path, None
    if path.exists():
        raise RecipeError(f"the base model {model} is a file; give the folder that holds config.json and its weights")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise RecipeError(f"the base model's folder {model} does not exist; correct the path, or give a hub id")
    folder = hub_folder(model, "model", revision, _HUB_FILES, _HUB_LEFT_OUT)
    return folder, folder.name


def _names(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"it holds {shown}" if names else "it is empty"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as JSON ({error}); get the model's files again") from None
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no JSON object; get the model's files again")
    return value


# What kind of model it is


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.exists():
        return _json(path)
    if (folder / "adapter_config.json").exists():
        raise RecipeError(f"{folder} holds an adapter, not a base model: merge it into its base model first")
    raise RecipeError(
        f"{folder} has no config.json, so it is no model in Hugging Face format; {_names(folder)}. "
        "Give the folder that save_pretrained wrote"
    )


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    architectures = [str(name) for name in config.get("architectures") or []]
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        named = ", ".join(architectures) or "no architecture"
        raise RecipeError(f"{folder} is no causal language model: its config.json names {named}; give one that is")
    if "quantization_config" in config:
        raise RecipeError(
            f"{folder} is quantized already (quantization_config in config.json); give the original weights, "
            "Nightshift quantizes them to NF4 itself"
        )


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise RecipeError(
            f"{folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}); {_names(folder)}. "
            "Put the tokenizer that the model was trained with beside it"
        )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    path = folder / "tokenizer_config.json"
    return path.exists() and bool(_json(path).get("chat_template"))


# The weights


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in order of name."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted({str(name) for name in dict(_json(index).get("weight_map") or {}).values()})
        if missing := [name for name in names if not (folder / name).exists()]:
            raise RecipeError(
                f"{folder} lacks {len(missing)} of its {len(names)} weight files ({missing[0]}); download it again"
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    pickles = sorted(entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES)
    if pickles:
        raise RecipeError(
            f"{folder} has only pickled weights ({pickles[0]}), which can run code: safetensors only. Where you trust "
            "them, load them with transformers once and save_pretrained into another folder"
        )
    raise RecipeError(
        f"{folder} has no weights (model.safetensors, or model.safetensors.index.json and its parts); {_names(folder)}"
    )


def _shapes(files: Iterable[Path]) -> Shapes:
    """Name and shape of every tensor. Raises RecipeError where a file is not whole."""
    shapes: Shapes = {}
    for file in files:
        for name, entry in _header(file).items():
            shapes[name] = tuple(entry["shape"])
    return shapes


def _header(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise RecipeError(f"{file} is a git-lfs pointer, not the weights: run git lfs pull in its folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        raw = opened.read(length) if length < size else b""
    try:
        header = {name: entry for name, entry in json.loads(raw).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RecipeError(f"{file} is no whole safetensors file; download it again") from None
    if size != 8 + length + end:
        raise RecipeError(f"{file} is cut off: {size:,} bytes instead of {8 + length + end:,}; download it again")
    return header


# The facts


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return {
            "hidden": hidden,
            "layers": int(config["num_hidden_layers"]),
            "heads": heads,
            "kv_heads": int(config.get("num_key_value_heads") or heads),
            "head_dim": int(config.get("head_dim") or hidden // heads),
            "intermediate": int(config["intermediate_size"]),
            "vocab": int(config["vocab_size"]),
            "context": int(config["max_position_embeddings"]),
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RecipeError(
            f"config.json of this {config.get('model_type', 'unnamed')} model gives no usable {error}; Nightshift "
            "trains models of the Llama family (Llama, Mistral, Qwen2 and their kin)"
        ) from None


def _facts(config: Mapping[str, Any], shapes: Shapes, folder: Path) -> BaseFacts:
    matrices: Counter[tuple[str, int, int]] = Counter()
    others: set[str] = set()
    for name, shape in shapes.items():
        match = _LAYER_MATRIX.search(name)
        if match is None or len(shape) != 2:
            continue
        if ".experts." in name:
            raise RecipeError(f"{folder} is a mixture of experts ({name}), which Nightshift does not train")
        if match[2] in ATTENTION + MLP:
            matrices[match[2], shape[1], shape[0]] += 1
        else:
            others.add(match[2])
    if not matrices:
        raise RecipeError(
            f"{folder} has none of the modules that LoRA is put on ({', '.join(ATTENTION + MLP)}); "
            f"its layers hold {', '.join(sorted(others)) or 'no matrices'}"
        )
    tied = bool(config.get("tie_word_embeddings", "lm_head.weight" not in shapes))
    return BaseFacts(
        model_type=str(config.get("model_type", "")),
        **_sizes(config),
        tied=tied,
        parameters=sum(math.prod(shape) for name, shape in shapes.items() if not (tied and name == "lm_head.weight")),
        linears=_in_order(matrices),
        has_chat_template=_has_chat_template(folder),
    )


def _in_order(matrices: Counter[tuple[str, int, int]]) -> tuple[Linear, ...]:
    order = {name: position for position, name in enumerate(ATTENTION + MLP)}
    found = sorted(matrices.items(), key=lambda item: (order[item[0][0]], item[0]))
    return tuple(Linear(name=n, inputs=i, outputs=o, count=count) for (n, i, o), count in found)


# Digests


def _digest(folder: Path, weights: Iterable[Path]) -> str:
    """SHA-256 over the names and digests of the files that decide what the model says."""
    files = sorted({*weights, *(folder / name for name in _DIGESTED if (folder / name).exists())})
    lines = [f"{file.name} {_file_digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    """SHA-256 of a file; of an unchanged file, out of the cache (16 GB take half a minute)."""
    real, status = file.resolve(), file.stat()
    stamp = f"{real}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
    cached = cache_folder() / "digests" / hashlib.sha256(stamp.encode()).hexdigest()
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{64}", known := cached.read_text(encoding="ascii")):
            return known
    with open(real, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written costs time and nothing else
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cached, digest)
    return digest


def cache_folder() -> Path:
    """Nightshift's folder under the user's cache folder; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightshift"
