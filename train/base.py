"""Facts about a base model, read from its files: config.json, the tokenizer and the headers of its safetensors.

Imports no torch. Nothing of a model is executed or loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.catalog import known
from train.digests import cache_folder, model_digest
from train.hub import hub_folder
from train.recipe import Base, Frozen, RecipeError, Sha256
from train.shards import Shapes, held, json_object, shapes_of, weight_files
from train.targets import ATTENTION, MLP, TARGET_MODULES, described, picked
from train.tuned import base_name, eos_token, why_tuned

__all__ = [
    "TARGET_MODULES",
    "BaseFacts",
    "Linear",
    "cache_folder",
    "check_is_base",
    "facts_of_config",
    "inspect_base",
    "own_chat_template",
    "targeted",
]

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
_HUB_LEFT_OUT = ("*/*", "consolidated*")  # a second copy of the weights in another layout
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_LAYER_MATRIX = re.compile(r"^(.*?\.)(\d+)(\..*?(\w+))\.weight$")  # model.layers.0.self_attn.q_proj.weight


class Linear(Frozen):
    """One kind of linear layer inside the decoder's layers; `count` of them have these sizes.

    They are the modules `path` with each of `layers` in it: "model.layers.{}.self_attn.q_proj".
    """

    name: str
    inputs: int
    outputs: int
    count: int
    path: str = ""
    layers: tuple[int, ...] = ()


class BaseFacts(Frozen):
    """What is known of a base model without loading it. `parameters` counts tied embeddings once.

    `linears` are the matrices inside the decoder layers: what becomes 4-bit, and what LoRA may be put on. `context` is
    the largest number of positions. `tuned` is the evidence that it is no base model (see train.tuned). `sha256` covers
    configuration, tokenizer and weights; it, `folder` and `revision` (a hub model's commit) are None where the facts
    come from a configuration alone.
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
    tuned: str | None = None
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


class NoEos(RecipeError):
    """The tokenizer in `folder` names no token that ends a text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"the tokenizer in {folder} has no EOS token, so that no answer could learn to end: set eos_token in its "
            "tokenizer_config.json"
        )


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
    weights = weight_files(folder, from_hub=commit is not None)
    facts = _facts(config, shapes_of(weights), folder)
    digest = model_digest(folder, weights)
    if sha256 is not None and digest != sha256:
        raise RecipeError(
            f"{folder} is not the model that was pinned: sha256 is {digest}, not {sha256}; "
            "get the pinned files again, or start a new study on these"
        )
    told = {"tuned": why_tuned(model, folder, config), "has_chat_template": own_chat_template(folder) is not None}
    return facts.model_copy(update={**told, "sha256": digest, "folder": str(folder), "revision": commit})


def check_is_base(base: Base, facts: BaseFacts) -> None:
    """Raise RecipeError where the model was tuned for chat already and `base` does not allow that."""
    if facts.tuned is None or base.allow_instruct:
        return
    original = known(base_name(base.model))
    instead = f"take {original.id}" if original else "take the base model that it was made from"
    raise RecipeError(
        f"{base.model} is no base model, but tuned for chat already: {facts.tuned}. Nightshift is for base models: "
        f"{instead}, or set allow_instruct = true in [base] to go on with this one"
    )


def targeted(linears: Sequence[Linear], targets: str | Sequence[str]) -> tuple[Linear, ...]:
    """Of each kind of linear layer those that `targets` means. Raises RecipeError where there is none."""
    if isinstance(targets, str) and targets in TARGET_MODULES:
        found = [linear for linear in linears if linear.name in TARGET_MODULES[targets]]
    else:
        found = [chosen for linear in linears if (chosen := _chosen(linear, targets)).count]
    if not found:
        there = ", ".join(sorted({linear.name for linear in linears})) or "none that Nightshift knows"
        example = f", like {linears[0].path.format(0)}" if linears and targets not in TARGET_MODULES else ""
        raise RecipeError(
            f"{described(targets)}, and the base model has none of them (it has {there}{example}); choose other targets"
        )
    return tuple(found)


def _chosen(linear: Linear, targets: str | Sequence[str]) -> Linear:
    modules = {linear.path.format(layer): layer for layer in linear.layers}
    layers = tuple(modules[module] for module in picked(modules, targets))
    return linear.model_copy(update={"count": len(layers), "layers": layers})


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
    linears = tuple(
        _linear(f"model.layers.{{}}.{_room(n)}.{n}", *size, range(sizes["layers"])) for n, size in shapes.items()
    )
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


# What kind of model it is


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.exists():
        return json_object(path)
    if (folder / "adapter_config.json").exists():
        raise RecipeError(f"{folder} holds an adapter, not a base model: merge it into its base model first")
    raise RecipeError(
        f"{folder} has no config.json, so it is no model in Hugging Face format; {held(folder)}. "
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
            f"{folder} has no tokenizer (none of {', '.join(_TOKENIZERS)}); {held(folder)}. "
            "Put the tokenizer that the model was trained with beside it"
        )
    if (folder / "tokenizer.json").exists() and eos_token(folder) is None:
        raise NoEos(folder)


def own_chat_template(folder: Path) -> str | None:
    """The chat template that the tokenizer in `folder` brings along; of several, the one by the name of default."""
    if (path := folder / "chat_template.jinja").exists():
        return path.read_text(encoding="utf-8", errors="replace") or None
    for name in ("chat_template.json", "tokenizer_config.json"):
        held = json_object(folder / name).get("chat_template") if (folder / name).exists() else None
        if isinstance(held, list):
            held = next((e.get("template") for e in held if isinstance(e, dict) and e.get("name") == "default"), None)
        if held:
            return str(held)
    return None


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
    matrices: dict[tuple[str, int, int], list[int]] = {}
    others: set[str] = set()
    for name, shape in shapes.items():
        match = _LAYER_MATRIX.search(name)
        if match is None or len(shape) != 2:
            continue
        if ".experts." in name:
            raise RecipeError(f"{folder} is a mixture of experts ({name}), which Nightshift does not train")
        if match[4] in ATTENTION + MLP:
            matrices.setdefault((f"{match[1]}{{}}{match[3]}", shape[1], shape[0]), []).append(int(match[2]))
        else:
            others.add(match[4])
    if not matrices:
        raise RecipeError(
            f"{folder} has none of the modules that LoRA is put on ({', '.join(ATTENTION + MLP)}); "
            f"its layers hold {', '.join(sorted(others)) or 'no matrices'}"
        )
    tied = bool(config.get("tie_word_embeddings", "lm_head.weight" not in shapes))
    linears = [_linear(path, inputs, outputs, layers) for (path, inputs, outputs), layers in matrices.items()]
    return BaseFacts(
        model_type=str(config.get("model_type", "")),
        **_sizes(config),
        tied=tied,
        parameters=sum(math.prod(shape) for name, shape in shapes.items() if not (tied and name == "lm_head.weight")),
        linears=tuple(sorted(linears, key=_order)),
    )


def _linear(path: str, inputs: int, outputs: int, layers: Iterable[int]) -> Linear:
    numbers = tuple(sorted(layers))
    name = path.rpartition(".")[2]
    return Linear(name=name, inputs=inputs, outputs=outputs, count=len(numbers), path=path, layers=numbers)


def _order(linear: Linear) -> tuple[int, str, int, int]:
    return (ATTENTION + MLP).index(linear.name), linear.path, linear.inputs, linear.outputs


def _room(name: str) -> str:
    return "self_attn" if name in ATTENTION else "mlp"
