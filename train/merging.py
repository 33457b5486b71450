"""An adapter merged into its base model: whole weights in the base's own precision, as safetensors with all that a
model's folder needs.

    python -m train.merging JOB.json     {"base", "adapter", "out", "chat_template", "result"}

The weights in 4 bits, on which the adapter was trained, are not what it is merged into: each matrix is read from the
base model's files, PEFT adds the adapter to it in float32, and it is rounded once, to the precision that it had. No
more is held at a time than one file that is written, of SHARD bytes or one tensor, and one matrix in float32.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import peft
import torch
from safetensors import SafetensorError, safe_open

from train import companions, room
from train.base import BaseFacts, inspect_base
from train.model import Tensors, quiet, save_tensors
from train.recipe import Base, RecipeError
from train.rundir import Json, fsync_folder, read_json, write_json
from train.shards import INDEX, shapes_of, weight_files

SHARD = 2**30
_PEFT_ROOT = "base_model.model."


def merge(base: Base, adapter: Path, out: Path, chat_template: str | None = None) -> Json:
    """Write `base` with the adapter in the folder `adapter` as the folder `out`, which is whole once it is there.

    Its chat template is `chat_template`, or the tokenizer's where that is None. Returns `bytes` and `files` of the
    weights, `matrices` that the adapter changed, `parameters` and `dtype`. Raises RecipeError where the model or the
    adapter cannot be read, do not belong together, or the disk has no room.
    """
    facts = inspect_base(base.model, base.revision, base.sha256)
    files = weight_files(Path(str(facts.folder)))
    changes = _Changes(adapter)
    matrices = {name for name, shape in shapes_of(files).items() if len(shape) == 2}
    if other := sorted(changes.names - matrices):
        raise RecipeError(
            f"the adapter in {adapter} does not fit {base.model}: it changes {other[0]}, which is none of its "
            "matrices; give the base model that it was trained on"
        )
    room.check(out.parent, room.merged_bytes(facts))
    staged = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        made = _write_whole(staged, _merged(files, changes), facts, chat_template)
    except (RecipeError, SafetensorError, OSError) as error:
        shutil.rmtree(staged)
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{out} cannot be written: {error}") from error
    os.replace(staged, out)
    fsync_folder(out.parent)
    return {**made, "matrices": len(changes.names)}


def _write_whole(
    folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], facts: BaseFacts, chat_template: str | None
) -> Json:
    """Everything of a model, durably."""
    made = _write_weights(folder, tensors)
    companions.copy(Path(str(facts.folder)), folder, chat_template)
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    fsync_folder(folder)
    return made


# The weights


class _Changes:
    """What an adapter changes: `names` are those of the base model's tensors."""

    def __init__(self, adapter: Path) -> None:
        try:
            config = peft.PeftConfig.from_pretrained(str(adapter))
            with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RecipeError(f"the adapter in {adapter} cannot be read ({reason}): put back its files") from error
        if not isinstance(config, peft.LoraConfig) or config.fan_in_fan_out:
            raise RecipeError(f"the adapter in {adapter} is no LoRA of a model's linear layers, and is not merged")
        self._config, self._of = config, _by_tensor(tensors)

    @property
    def names(self) -> set[str]:
        return set(self._of)

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The tensor of that name with the adapter in it; itself where the adapter leaves it alone."""
        if name not in self._of:
            return weight
        module = name.removesuffix(".weight")
        tree, linear = _alone(module, weight)
        try:
            with quiet():
                peft.inject_adapter_in_model(self._config, tree)
                loaded = peft.set_peft_model_state_dict(tree, self._of[name])
            tuned = tree.get_submodule(module)
            assert isinstance(tuned, peft.tuners.lora.Linear), type(tuned)
            assert not loaded.unexpected_keys, loaded.unexpected_keys
            tuned.merge(safe_merge=True)
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RecipeError(f"the adapter does not fit the base model's {module}: {reason}") from error
        return linear.weight.detach().to(weight.dtype)


def _by_tensor(tensors: Mapping[str, torch.Tensor]) -> dict[str, Tensors]:
    """The adapter's tensors, by the tensor of the base model that they change."""
    found: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix(_PEFT_ROOT)
        found.setdefault(f"{inside.partition('.lora_')[0]}.weight", {})[inside] = tensor
    return found


def _alone(module: str, weight: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """A model of one linear module, under its full name, by which PEFT finds what its configuration says of it."""
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight.to(torch.float32, copy=True), requires_grad=False)
    tree = node = torch.nn.Module()
    *path, last = module.split(".")
    for part in path:
        node.add_module(part, torch.nn.Module())
        node = node.get_submodule(part)
    node.add_module(last, linear)
    return tree, linear


def _merged(files: list[Path], changes: _Changes) -> Iterator[tuple[str, torch.Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                yield name, changes.apply(name, file.get_tensor(name))


def _write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> Json:
    parts: list[list[str]] = []
    held: Tensors = {}
    dtypes: dict[str, int] = {}
    size = parameters = 0

    def flush() -> None:
        save_tensors(held, folder / f"part-{len(parts)}")
        parts.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and sum(one.nbytes for one in held.values()) + tensor.nbytes > SHARD:
            flush()
        held[name] = tensor.contiguous()
        size, parameters = size + tensor.nbytes, parameters + tensor.numel()
        dtype = str(tensor.dtype).removeprefix("torch.")
        dtypes[dtype] = dtypes.get(dtype, 0) + tensor.numel()
    flush()
    _name_parts(folder, parts, size)
    return {
        "bytes": size,
        "files": len(parts),
        "parameters": parameters,
        "dtype": max(dtypes, key=lambda name: dtypes[name]),
    }


def _name_parts(folder: Path, parts: list[list[str]], size: int) -> None:
    """Give the files the names that transformers looks for, now that their number is known, and write their index."""
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    names = names if len(parts) > 1 else ["model.safetensors"]
    for number, name in enumerate(names):
        os.replace(folder / f"part-{number}", folder / name)
    if len(parts) > 1:
        places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})


# By itself


def main(arguments: list[str]) -> int:
    """Do the job in the file named. 0: done, and told as JSON; 2: told what has to be put right."""
    job = read_json(Path(arguments[0]))
    assert job is not None, arguments
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    try:
        base = Base.model_validate(job["base"], strict=False)
        made = merge(base, Path(job["adapter"]), Path(job["out"]), job["chat_template"])
    except RecipeError as error:
        print(error, file=sys.stderr)  # noqa: T201 (its caller shows it)
        return 2
    write_json(Path(job["result"]), made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
