"""The file of decisions about a run's end, and how another run takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_train import make_recipe

from train.decisions import FILE, Decisions, has_ended
from train.horizon import Decision
from train.recipe import Recipe, RecipeError

RECIPE = make_recipe(Path("base"))


def written(folder: Path, *, ended: bool = True, recipe: Recipe = RECIPE) -> Decisions:
    folder.mkdir()
    made = Decisions(folder / FILE, recipe)
    made.append(Decision(0, 6, 6), 0.0)
    made.append(Decision(3, 9, 9, "pace"), 30.0, Decision(0, 6, 6))
    if ended:
        made.end(9)
        made.end(9)
    return made


def test_a_run_that_takes_them_has_them_and_says_so(tmp_path: Path) -> None:
    given, taken = written(tmp_path / "a"), Decisions(tmp_path / "b" / FILE, RECIPE)
    (tmp_path / "b").mkdir()
    taken.take(given.path)
    assert taken.read() == given.read() == [Decision(0, 6, 6), Decision(3, 9, 9, "pace")]
    assert (taken.replayed, given.replayed) == (True, False)
    before = taken.path.read_bytes()
    taken.take(given.path)  # a second start with the same option
    taken.end(9)
    assert taken.path.read_bytes() == before
    third = Decisions(tmp_path / "c" / FILE, RECIPE)
    (tmp_path / "c").mkdir()
    third.take(taken.path)
    assert third.read() == given.read()


def test_only_those_of_a_run_that_ended_are_taken(tmp_path: Path) -> None:
    unfinished = written(tmp_path / "a", ended=False)
    assert not has_ended(unfinished.path)
    for path, says in (
        (unfinished.path, "has no decisions of a run that was made to its end; name the horizon"),
        (tmp_path / "nowhere", "is no file; name the horizon.jsonl in the folder final"),
        (tmp_path, "is no file; name the horizon.jsonl in the folder final"),
    ):
        with pytest.raises(RecipeError, match=says):
            Decisions(tmp_path / FILE, RECIPE).take(path)
    assert not (tmp_path / FILE).exists()


def test_those_of_another_recipe_are_refused(tmp_path: Path) -> None:
    other = written(tmp_path / "a", recipe=make_recipe(Path("base"), rank=8))
    with pytest.raises(RecipeError, match="has the decisions of another recipe"):
        Decisions(tmp_path / FILE, RECIPE).take(other.path)


def test_a_run_that_has_begun_with_others_is_not_turned_into_a_replay(tmp_path: Path) -> None:
    given, own = written(tmp_path / "a"), written(tmp_path / "b", ended=False)
    before = own.path.read_bytes()
    with pytest.raises(RecipeError, match=r"holds a run that does not take its decisions from .*; move it away: mv "):
        own.take(given.path)
    assert own.path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 4, "sft_steps": 9, "steps": 3, "why": "pace"}',
        '{"step": "4", "sft_steps": 9, "steps": 9, "why": "pace"}',
        '{"step": 4, "sft_steps": 9, "steps": 9, "why": "__import__"}',
        '{"step": 4, "sft_steps": 9}',
        '{"step": true, "sft_steps": 9, "steps": 9, "why": "pace"}',
        '{"step": 4, "sft_steps": 9, "steps": 9, "why": ["pace"]}',
    ],
)
def test_a_line_that_says_what_cannot_be_is_refused(tmp_path: Path, line: str) -> None:
    made = written(tmp_path / "a", ended=False)
    with open(made.path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(RecipeError, match=r"is damaged .*: put the whole file back"):
        made.read()
