from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_train import make_recipe

from train.checkpoint import KEPT, Checkpoint, discard, newest, save
from train.position import Position
from train.recipe import Recipe
from train.rundir import RunDir
from train.stage import make_optimizer

NAMES = ("layer.lora_A.weight", "layer.lora_B.weight")


def weights(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    """Large enough (4,096 numbers) for 8-bit states."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(64, 65, generator=draw)) for name in NAMES}


def stepped(recipe: Recipe, parameters: dict[str, torch.nn.Parameter], steps: int) -> torch.optim.Optimizer:
    optimizer = make_optimizer(recipe, parameters, 1e-2)
    for step in range(steps):
        one_more(optimizer, parameters, step)
    return optimizer


def one_more(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], step: int) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
    optimizer.step()


def put(run: RunDir, step: int, reference: bool = False) -> Checkpoint:
    parameters = weights(step)
    optimizer = stepped(run.recipe(), parameters, 2)
    adapter = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    position = Position(step=step, tokens=10 * step, seconds=1.5, rungs={"0.25": 2.0})
    return save(run, position, adapter, adapter if reference else None, optimizer, parameters)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create(make_recipe(Path("base")))
    return made


def test_a_checkpoint_comes_back_whole(run: RunDir) -> None:
    put(run, 3)
    found = newest(run)
    assert found is not None
    assert found.position == Position(step=3, tokens=30, seconds=1.5, rungs={"0.25": 2.0})
    assert found.adapter().keys() == set(NAMES)
    assert found.reference().keys() == found.adapter().keys()


def test_there_is_none_in_a_new_run(run: RunDir) -> None:
    assert newest(run) is None


def test_nothing_of_it_is_a_pickle(run: RunDir) -> None:
    names = {path.name for path in put(run, 1, reference=True).path.iterdir()}
    assert names == {
        *("adapter.safetensors", "reference.safetensors", "optimizer.safetensors", "rng.safetensors"),
        *("state.json", "manifest.json"),
    }


def test_the_newest_two_are_kept(run: RunDir) -> None:
    for step in (1, 2, 3, 10):
        put(run, step)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000003", "step-00000010"]
    assert KEPT == 2


# Damage


TENSORS = ("adapter", "reference", "optimizer", "rng")
FILES = [*(f"{name}.safetensors" for name in TENSORS), "state.json", "manifest.json"]


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [missing, empty, truncated, flipped])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_one_is_passed_over(run: RunDir, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    put(run, 1, reference=True)
    damage(put(run, 2, reference=True).path / name)
    found = newest(run)
    assert found is not None
    assert found.position.step == 1
    damage(found.path / name)
    assert newest(run) is None
    put(run, 3, reference=True)  # the run begins anew, and what is damaged is in nobody's way
    found = newest(run)
    assert found is not None
    assert found.position.step == 3


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    run = RunDir(tmp_path_factory.mktemp("sealed"))
    run.create(make_recipe(Path("base")))
    put(run, 1, reference=True)
    yield run
    assert newest(run) is not None


@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(sealed: RunDir, name: str, place: float, bit: int) -> None:
    path = sealed.checkpoints / "step-00000001" / name
    whole = path.read_bytes()
    content = bytearray(whole)
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        assert newest(sealed) is None
    finally:
        path.write_bytes(whole)


def test_what_a_kill_left_half_written_is_removed(run: RunDir) -> None:
    put(run, 1)
    half = run.checkpoints / ".tmp-step-00000002"
    shutil.copytree(run.checkpoints / "step-00000001", half)
    found = newest(run)
    assert found is not None
    assert found.position.step == 1
    assert not half.exists()


def test_a_damaged_one_is_replaced_and_makes_no_room_for_itself(run: RunDir) -> None:
    for step in (1, 2, 3):
        put(run, step)
    empty(run.checkpoints / "step-00000003" / "state.json")
    put(run, 3)
    found = newest(run)
    assert found is not None
    assert found.position.step == 3
    empty(run.checkpoints / "step-00000003" / "state.json")
    (run.checkpoints / "step-00000003").rename(run.checkpoints / "step-00000009")
    put(run, 4)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_of_another_recipe_is_not_used(run: RunDir, tmp_path: Path) -> None:
    put(run, 1)
    other = RunDir(tmp_path / "other")
    other.create(make_recipe(Path("base"), rank=8))
    shutil.copytree(run.checkpoints, other.checkpoints)
    assert newest(other) is None


@pytest.mark.parametrize(("room", "name"), [(1000, "adapter"), (40_000, "optimizer")])
def test_where_it_cannot_be_written_those_before_it_stay(run: RunDir, room: int, name: str) -> None:
    put(run, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # as good as a full disk
    try:
        with pytest.raises(OSError, match=rf"{name}.safetensors"):
            put(run, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000001"]
    assert newest(run) is not None


def test_discarding_removes_all(run: RunDir) -> None:
    put(run, 1)
    discard(run)
    assert not run.checkpoints.exists()
    discard(run)


# What is in it


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_an_optimizer_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    run = RunDir(tmp_path)
    run.create(make_recipe(Path("base"), optimizer=kind, weight_decay=0.1))
    parameters = weights()
    optimizer = stepped(run.recipe(), parameters, 3)
    adapter = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    saved = save(run, Position(step=3), adapter, None, optimizer, parameters)
    one_more(optimizer, parameters, 3)

    again = {name: torch.nn.Parameter(tensor) for name, tensor in saved.adapter().items()}
    restored = make_optimizer(run.recipe(), again, 1e-2)
    saved.restore_optimizer(restored, again)
    one_more(restored, again, 3)
    assert all(torch.equal(again[name], parameters[name]) for name in NAMES)
    without = {name: torch.nn.Parameter(tensor) for name, tensor in saved.adapter().items()}
    one_more(make_optimizer(run.recipe(), without, 1e-2), without, 3)
    assert not torch.equal(without[NAMES[0]], parameters[NAMES[0]])


def test_random_numbers_go_on_where_they_were(run: RunDir) -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn()), *torch.rand(2)]

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    draw()
    saved = put(run, 1)
    expected = draw()
    draw()
    saved.restore_rng()
    assert draw() == expected
