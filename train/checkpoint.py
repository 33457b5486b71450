"""Checkpoints that a power cut cannot spoil, and from which a run goes on bit for bit. No pickles.

    checkpoints/step-00000120/
        adapter.safetensors     the weights being trained
        reference.safetensors   DPO's reference; in the DPO stage only
        optimizer.safetensors   the optimizer's tensors, by weight: NAME/exp_avg
        rng.safetensors         torch's random state: cpu, cuda
        state.json              position, the optimizer's numbers, Python's and numpy's random states
        manifest.json           written last: SHA-256 and size of each file above, recipe, versions, and its own digest

A checkpoint is written as `.tmp-step-...`, made durable file by file, and renamed. What has no `.tmp-` in front of its
name was whole when it was written; whether it still is, the digests say.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors.torch import load_file

from train.model import Tensors, save_tensors
from train.position import Position
from train.rundir import Json, RunDir, fsync_folder, read_json

KEPT = 2
_STAGED = ".tmp-"
_MANIFEST = "manifest.json"
_LIBRARIES = ("accelerate", "bitsandbytes", "numpy", "peft", "safetensors", "torch", "transformers", "trl")

Parameters = Mapping[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that verified when this object was made."""

    path: Path
    position: Position

    def adapter(self) -> Tensors:
        """The weights being trained, by PEFT's names."""
        return load_file(self.path / "adapter.safetensors")

    def reference(self) -> Tensors:
        """DPO's reference, by PEFT's names; of a checkpoint before the first step of that stage, the adapter."""
        path = self.path / "reference.safetensors"
        return load_file(path) if path.exists() else self.adapter()

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, parameters: Parameters) -> None:
        """Give the new `optimizer` over `parameters` the state that it had."""
        numbers = self._state()["optimizer"]
        optimizer = _unwrapped(optimizer)
        if isinstance(optimizer, bnb.optim.optimizer.Optimizer8bit):
            _make_state(optimizer)
        for key, tensor in load_file(self.path / "optimizer.safetensors").items():
            name, _, part = key.rpartition("/")
            state = optimizer.state[parameters[name]]
            if part in state:
                state[part].copy_(tensor)
            else:
                state[part] = tensor.to(parameters[name].device)
        for key, number in numbers.items():
            name, _, part = key.rpartition("/")
            optimizer.state[parameters[name]][part] = number

    def restore_rng(self) -> None:
        """Set Python's, numpy's and torch's random states as they were."""
        state = self._state()
        major, words, gauss = state["python"]
        random.setstate((major, tuple(words), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        tensors = load_file(self.path / "rng.safetensors")
        torch.set_rng_state(tensors["cpu"])
        if "cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["cuda"])

    def _state(self) -> Json:
        state = read_json(self.path / "state.json")
        assert state is not None
        return state


def save(
    run: RunDir, position: Position, adapter: Tensors, reference: Tensors | None, optimizer: Any, parameters: Parameters
) -> Checkpoint:
    """Write a checkpoint of `run`, durably, and remove all but the newest KEPT and those that these name as the best.

    `parameters` are the trained weights by name. Raises OSError where it cannot be written; those before it are then
    as they were.
    """
    name = step_name(position.step)
    staged, path = run.checkpoints / f"{_STAGED}{name}", run.checkpoints / name
    _remove_staged(run)
    staged.mkdir(parents=True)
    try:
        _write(staged, position, adapter, reference, _unwrapped(optimizer), parameters)
        _seal(staged, run.recipe().digest, position)
        if path.exists():  # a damaged one, passed over by `newest`
            shutil.rmtree(path)
        os.replace(staged, path)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    fsync_folder(run.checkpoints)
    fsync_folder(run.path)  # the first one made the folder, too
    _prune(run, path, position.best_step)
    return Checkpoint(path, position)


def newest(run: RunDir) -> Checkpoint | None:
    """The newest checkpoint of `run` that verifies; None where there is none. Removes what a kill left half-written."""
    _remove_staged(run)
    found = (_verified(run, path) for path in sorted(run.checkpoints.glob("step-*"), reverse=True))
    return next(filter(None, found), None)


def damaged(run: RunDir, found: Checkpoint | None) -> list[str]:
    """The names of the checkpoints that `newest` passed over before it `found` that one, or none."""
    names = sorted(path.name for path in run.checkpoints.glob("step-*"))
    return [name for name in names if found is None or name > found.path.name]


def at_step(run: RunDir, step: int) -> Checkpoint | None:
    """The checkpoint of `run` at `step`, if it is there and verifies."""
    return _verified(run, run.checkpoints / step_name(step))


def step_name(step: int) -> str:
    """What the folder of the checkpoint at `step` is called."""
    return f"step-{step:08d}"


def _verified(run: RunDir, path: Path) -> Checkpoint | None:
    if not _verifies(path, run.recipe().digest):
        return None
    return Checkpoint(path, Position.of((read_json(path / "state.json") or {})["position"]))


def discard(run: RunDir) -> None:
    """Remove all checkpoints of `run`, whose result is durable."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)


# Writing


def _write(
    folder: Path,
    position: Position,
    adapter: Tensors,
    reference: Tensors | None,
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
) -> None:
    tensors, numbers = _optimizer_state(optimizer, parameters)
    save_tensors(adapter, folder / "adapter.safetensors")
    if reference is not None:
        save_tensors(reference, folder / "reference.safetensors")
    save_tensors(tensors, folder / "optimizer.safetensors")
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    save_tensors(rng, folder / "rng.safetensors")
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "position": asdict(position),
        "optimizer": numbers,
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _seal(folder: Path, recipe_sha256: str, position: Position) -> None:
    """Write the manifest, and make every file and the folder durable."""
    files = {}
    for path in sorted(folder.iterdir()):
        _fsync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {"step": position.step, "recipe_sha256": recipe_sha256, "versions": versions(), "files": files}
    path = folder / _MANIFEST
    path.write_text(json.dumps({**manifest, "sha256": _own_digest(manifest)}, indent=1), encoding="utf-8")
    _fsync(path)
    fsync_folder(folder)


def _prune(run: RunDir, newest: Path, best_step: int) -> None:
    """Keep `newest` and those just before it, and the best; what lies after it was damaged, or it were not the newest.

    The best is taken as `newest` knows it and as the one before it does, which may have to be gone on from.
    """
    paths = sorted(run.checkpoints.glob("step-*"))
    before = [path for path in paths if path < newest]
    kept = {newest, *before[len(before) - (KEPT - 1) :]}
    best = {best_step, *(_best_step(path) for path in kept - {newest})}
    for path in paths:
        if path not in kept and (path > newest or int(path.name.removeprefix("step-")) not in best):
            shutil.rmtree(path)


def _best_step(path: Path) -> int:
    try:
        return int((read_json(path / "state.json") or {})["position"]["best_step"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return 0  # a damaged one, which nobody goes on from


def _remove_staged(run: RunDir) -> None:
    for path in run.checkpoints.glob(f"{_STAGED}*"):
        shutil.rmtree(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def versions() -> dict[str, str]:
    """The versions of the libraries that decide the weights."""
    return {name: version(name) for name in _LIBRARIES}


# Verifying


def _verifies(path: Path, recipe_sha256: str) -> bool:
    try:
        manifest = read_json(path / _MANIFEST) or {}
        own = manifest.pop("sha256", None)
        if own != _own_digest(manifest) or manifest["recipe_sha256"] != recipe_sha256:
            return False
        return all(
            (path / name).stat().st_size == entry["bytes"] and _sha256(path / name) == entry["sha256"]
            for name, entry in manifest["files"].items()
        )
    except (OSError, ValueError, AssertionError):
        return False


def _own_digest(manifest: Json) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The optimizer


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer below accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, torch.optim.Optimizer)
    return inner


def _optimizer_state(optimizer: torch.optim.Optimizer, parameters: Parameters) -> tuple[Tensors, dict[str, float]]:
    """Tensors and numbers of the state, by NAME/PART. Learning rate and the like follow from the recipe."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # paged states are read by the CPU
    tensors, numbers = {}, {}
    for name, parameter in parameters.items():
        for part, value in optimizer.state.get(parameter, {}).items():
            if part.startswith("qmap"):  # bitsandbytes' code tables, the same for every weight and every run
                continue
            if isinstance(value, torch.Tensor):
                tensors[f"{name}/{part}"] = value.detach().to("cpu", copy=True)
            else:
                numbers[f"{name}/{part}"] = value
    return tensors, numbers


def _make_state(optimizer: Any) -> None:
    """Let bitsandbytes make its empty states, so that paged ones stay in paged memory when they are filled."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, group_index, index)
