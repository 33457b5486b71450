"""That a damaged file of a run is told with its place, by one kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_train import make_recipe

from train.recipe import RecipeError
from train.rundir import Damaged, RunDir, read_json, taken

CUT = ["", "{", "[]", '{"a": 1', "[" * 100_000]


@pytest.mark.parametrize("text", CUT)
def test_a_file_that_holds_no_object_is_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(
        Damaged, match=r"result\.json is damaged, or of another version \(.+\): put the whole file back"
    ):
        read_json(path)


def test_what_lacks_a_field_is_damaged_and_what_is_to_be_done_is_said(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert taken(path, lambda held: held["steps"]) is None
    path.write_text('{"steps": 3, "seconds": 4}')
    assert taken(path, lambda held: held["steps"]) == 3
    with pytest.raises(Damaged, match=r"result\.json is damaged, .+ \(it has no 'scores'\): make it again$"):
        taken(path, lambda held: held["scores"], "make it again")
    with pytest.raises(Damaged, match=r"\(TypeError: 'int' object is not subscriptable\): put the whole file back"):
        taken(path, lambda held: held["seconds"]["train"])


def test_bytes_that_are_no_text_are_damaged(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.recipe_path.write_bytes(b"\xff{}")
    for reader in (run.recipe, lambda: read_json(run.recipe_path)):
        with pytest.raises(RecipeError, match=r"recipe\.json is damaged"):
            reader()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rank": "x"}'])
def test_a_recipe_that_is_none_is_damaged(tmp_path: Path, text: str) -> None:
    run = RunDir(tmp_path / "final")
    run.create(make_recipe(Path("base")))
    assert run.recipe() == make_recipe(Path("base"))
    run.recipe_path.write_text(text)
    with pytest.raises(Damaged, match=r"recipe\.json is damaged, or of another version"):
        run.recipe()
