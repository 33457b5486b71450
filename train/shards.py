"""The safetensors files of a model: which they are, and that each is whole, told by their headers alone.

Imports no torch. A damaged download is found here, in milliseconds, before anything is loaded.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.recipe import RecipeError

INDEX = "model.safetensors.index.json"

_ONE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_LONGEST_HEADER = 100_000_000  # bytes; what safetensors itself accepts
_BITS = {"BOOL": 8, "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32}
_BITS |= {"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8}

Shapes = dict[str, tuple[int, ...]]


def weight_files(folder: Path, *, from_hub: bool = False) -> list[Path]:
    """The safetensors files that make up the model in `folder`, in order of name. Raises RecipeError where there are
    none, or not all. `from_hub`: pickled files would not be in the folder, since they are not fetched."""
    if (folder / INDEX).exists():
        names = sorted(set(_weight_map(folder).values()))
        if missing := [name for name in names if not (folder / name).exists()]:
            raise RecipeError(
                f"{folder} lacks {len(missing)} of its {len(names)} weight files ({missing[0]}); download it again"
            )
        return [folder / name for name in names]
    if (folder / _ONE).exists():
        return [folder / _ONE]
    if pickles := sorted(entry.name for entry in folder.iterdir() if entry.suffix in _PICKLES):
        raise RecipeError(
            f"{folder} has only pickled weights ({pickles[0]}), which can run code: safetensors only. Where you trust "
            "them, load them with transformers once and save_pretrained into another folder"
        )
    raise RecipeError(
        f"{folder} has no weights ({_ONE}, or {INDEX} and its parts); {held(folder)}"
        + (". Pickled weights, which can run code, are not fetched: take a copy with safetensors" if from_hub else "")
    )


def shapes_of(files: list[Path]) -> Shapes:
    """Name and shape of every tensor. Raises RecipeError where a file is not whole, or not what the index says."""
    found = {file.name: _shapes(file) for file in files}
    folder = files[0].parent
    if (folder / INDEX).exists():
        for tensor, name in _weight_map(folder).items():
            if tensor not in found[name]:
                raise RecipeError(f"{folder / name} lacks {tensor}, which {INDEX} says is there; download both again")
    return {tensor: shape for shapes in found.values() for tensor, shape in shapes.items()}


def held(folder: Path) -> str:
    """What is in a folder, in words for a message."""
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"it holds {shown}" if names else "it is empty"


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in one of the model's files. Raises RecipeError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} cannot be read as JSON ({error}); get the model's files again") from None
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no JSON object; get the model's files again")
    return value


def _weight_map(folder: Path) -> dict[str, str]:
    found = json_object(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise RecipeError(f"{folder / INDEX} has no weight_map; get the model's files again")
    if outside := [name for name in found.values() if Path(name).name != name]:
        raise RecipeError(f"{folder / INDEX} names {outside[0]}, which is not in its folder; get the files again")
    return found


def _shapes(file: Path) -> Shapes:
    size = file.stat().st_size
    with open(file, "rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise RecipeError(f"{file} is a git-lfs pointer, not the weights: run git lfs pull in its folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        raw = opened.read(length) if length < min(size, _LONGEST_HEADER) else b""
    try:
        entries = {name: entry for name, entry in json.loads(raw).items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
        end = _end(entries, shapes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RecipeError(f"{file} is no whole safetensors file; download it again") from None
    if size != 8 + length + end:
        what = "cut off" if size < 8 + length + end else "too long"
        raise RecipeError(f"{file} is {what}: {size:,} bytes instead of {8 + length + end:,}; download it again")
    return shapes


def _end(entries: Mapping[str, Any], shapes: Shapes) -> int:
    """Where the last tensor ends. Raises ValueError unless they lie end to end, each of the size of its shape."""
    spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
    end = 0
    for begin, stop, name in spans:
        bits = _BITS.get(entries[name]["dtype"])
        if begin != end or (bits is not None and (stop - begin) * 8 != bits * math.prod(shapes[name])):
            raise ValueError(name)
        end = stop
    return end
