"""A study with all that a report can be made of, made once in a process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import made_study
import pytest

from search import freeze, freeze_file
from train.recipe import Recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that is searched, frozen and trained. Nothing may be changed in it but its report."""
    root = tmp_path_factory.mktemp("report")
    made = made_study.MadeStudy(made_study.write_study_file(root), root / "studies" / "tiny")
    frozen = freeze_file.constant(freeze.freeze(made.config, made.folder))
    made.finish(Recipe.model_validate_json(json.dumps(frozen["recipe"])))
    return made.folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))
