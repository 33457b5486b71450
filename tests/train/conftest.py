"""The tiny Llama of tiny_train, loaded in NF4 once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_train import make_recipe, write_llama

from train.model import LoadedBase, load_base
from train.recipe import Base, Recipe


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model in Hugging Face format."""
    return write_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def loaded(base_folder: Path) -> LoadedBase:
    """It, in NF4 on the CPU."""
    return load_base(Base(model=str(base_folder)), threads=1, device="cpu")


@pytest.fixture
def base(loaded: LoadedBase) -> Iterator[LoadedBase]:
    """It, to be left without an adapter: a test that forgets one fails itself, not the next one."""
    yield loaded
    assert not hasattr(loaded.model, "peft_config")


@pytest.fixture
def recipe(base_folder: Path) -> Recipe:
    """Six steps of supervised training."""
    return make_recipe(base_folder)


@pytest.fixture
def both(base_folder: Path) -> Recipe:
    """Four steps of supervised training and four of DPO."""
    return make_recipe(base_folder, examples=32, dpo_share=0.5)
