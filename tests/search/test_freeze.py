"""The frozen file and its lock: what is in them, and that they agree with the study."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import made_study
import pytest

from objectives.score import ObjectiveError
from search import config, freeze, standing, view
from search.errors import FreezeDiffers, NothingToFreeze, SearchError
from storage import records
from storage.db import StorageError
from train.recipe import Recipe, RecipeError
from train.rundir import RunDir, read_json, write_json


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> made_study.MadeStudy:
    root = tmp_path_factory.mktemp("freeze")
    return made_study.MadeStudy(made_study.write_study_file(root), root / "studies" / "tiny", states="CCPCF")


@pytest.fixture
def study(made: made_study.MadeStudy, tmp_path: Path) -> tuple[Any, Path]:
    """Configuration and a copy of the folder that a test may spoil."""
    folder = tmp_path / "tiny"
    shutil.copytree(made.folder, folder)
    return made.config, folder


def recipe_in(frozen: dict[str, Any]) -> Recipe:
    return Recipe.model_validate_json(json.dumps(frozen["recipe"]))


def best_number(folder: Path) -> int:
    return int(freeze.constant(folder / "final_run.py")["origin"]["trial"])


def test_the_best_trial_is_frozen_and_only_its_horizon_and_learning_rate_change(study: tuple[Any, Path]) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    frozen = freeze.constant(path)

    number = frozen["origin"]["trial"]
    trial, final = RunDir(folder / "runs" / f"{number:03d}").recipe(), recipe_in(frozen)
    assert final.examples > trial.examples
    rates = {name: getattr(trial, name) for name in ("learning_rate", "dpo_learning_rate")}
    assert final.model_copy(update={"examples": trial.examples, **rates}) == trial
    assert frozen["recipe_sha256"] == final.digest
    assert frozen["origin"]["recipe_sha256"] == trial.digest
    assert frozen["origin"]["trials"] == {"complete": 3, "failed": 1, "pruned": 1}
    assert frozen["origin"]["score"]["n"] == 8
    assert {"python", "torch", "trl", "nightshift"} <= frozen["versions"].keys()
    assert final.base.sha256
    assert all(source.sha256 for source in final.sources)


def test_every_value_says_where_it_comes_from(study: tuple[Any, Path]) -> None:
    config, folder = study
    values = freeze.constant(freeze.freeze(config, folder))["origin"]["values"]
    assert set(Recipe.model_fields) <= values.keys()
    assert values["examples"] == "set by the freeze"
    assert values["max_length"] == "set in [recipe]"
    assert values["seed"] == "set in [study]"
    assert values["schedule"] == "default"
    assert values["rank"].startswith("searched, one of 2, 4, 8")
    assert values["weight.chat"] == "searched, 0 to 1"


def test_a_lower_learning_rate_says_from_what_to_what_and_why(study: tuple[Any, Path]) -> None:
    config, folder = study
    frozen = freeze.constant(freeze.freeze(config, folder))
    trial = RunDir(folder / "runs" / f"{frozen['origin']['trial']:03d}").recipe()
    change = frozen["origin"]["changes"]["learning_rate"]
    assert change["from"] == trial.learning_rate
    assert change["to"] == recipe_in(frozen).learning_rate < trial.learning_rate
    assert change["why"].startswith("corrected for the horizon: ")
    assert frozen["origin"]["values"]["learning_rate"].endswith("; then corrected for the horizon")


def test_final_can_keep_the_learning_rate(study: tuple[Any, Path]) -> None:
    config, folder = study
    final = config.final.model_copy(update={"correct_learning_rate": False})
    path = freeze.freeze(config.model_copy(update={"final": final}), folder)
    assert freeze.constant(path)["origin"]["changes"].keys() <= {"examples", "max_new_tokens"}
    with pytest.raises(FreezeDiffers, match=r"recipe\.learning_rate: "):
        freeze.check(config, folder)


def test_a_prior_is_named_only_for_what_it_gave(made: made_study.MadeStudy) -> None:
    record = made_study.record(0, 0.5, user_attrs={"prior": "middle"}, params={"rank": 4, "weight.chat": 0.3})
    values = freeze.origins(made.config, record)
    assert values["rank"] == "searched, one of 2, 4, 8; this one from the prior middle"
    assert values["weight.chat"] == "searched, 0 to 1"


def test_freezing_twice_gives_the_same_file(study: tuple[Any, Path]) -> None:
    config, folder = study
    first = freeze.freeze(config, folder).read_bytes()
    assert freeze.freeze(config, folder).read_bytes() == first
    assert first.isascii()
    assert not list(folder.glob(".*.tmp"))


def test_check_agrees_with_what_was_just_frozen(study: tuple[Any, Path]) -> None:
    config, folder = study
    freeze.freeze(config, folder)
    freeze.check(config, folder)


def test_more_trials_change_nothing_as_long_as_the_best_is_the_same(study: tuple[Any, Path]) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    frozen = freeze.constant(path)
    frozen["origin"]["trials"] = {"complete": 2}
    path.write_text(freeze.render(frozen))
    freeze.check(config, folder)


def test_a_later_trial_that_loads_longer_changes_nothing(study: tuple[Any, Path]) -> None:
    config, folder = study
    freeze.freeze(config, folder)
    other = next(n for n in (0, 1, 2) if n != best_number(folder))
    result = RunDir(folder / "runs" / f"{other:03d}").result
    held = read_json(result) or {}
    write_json(result, {**held, "seconds": {**held["seconds"], "load": 60.0, "data": 9.0}})
    freeze.check(config, folder)


def test_the_file_of_a_run_that_is_begun_with_another_recipe_is_not_replaced(study: tuple[Any, Path]) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    frozen = path.read_bytes()
    recipe = recipe_in(freeze.constant(path))
    RunDir(folder / "final").create(recipe)
    freeze.freeze(config, folder)  # the same recipe: nothing is lost
    (folder / "final" / "recipe.json").unlink()
    RunDir(folder / "final").create(recipe.model_copy(update={"rank": 3}))
    (folder / "final-before").mkdir()
    with pytest.raises(FreezeDiffers, match="is begun with another recipe") as raised:
        freeze.freeze(config, folder)
    assert path.read_bytes() == frozen
    subprocess.run(["sh", "-c", str(raised.value).rpartition("freeze again: ")[2]], check=True)
    moved = {each.name for each in (folder / "final-before-2").iterdir()}
    assert moved == {"final", "final_run.py", "final_run.lock.json"}
    assert freeze.freeze(config, folder).read_bytes() == frozen


def test_a_trial_that_was_ended_as_behind_is_never_the_best(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="PB")
    with pytest.raises(NothingToFreeze, match=r"\(1 complete, 1 pruned\)"):
        freeze.freeze(made.config, made.folder)


def test_the_trial_of_which_most_is_expected_is_frozen_whatever_it_scored(study: tuple[Any, Path]) -> None:
    config, folder = study
    scored = standing.whole(records.read(folder / "study.db").trials)
    lower = scored[-1]
    assert lower.value != scored[0].value
    said: list[str] = []
    freeze.freeze(config, folder, say=said.append)
    assert said[0] == f"frozen is trial {scored[0].number}, which has the highest score"
    standing.keep(folder, lower, scored)
    with pytest.raises(
        FreezeDiffers, match=rf"origin\.trial: {scored[0].number} in final_run.py, and {lower.number} is the"
    ) as r:
        freeze.check(config, folder)
    assert all(line.startswith("  recipe.") for line in str(r.value).splitlines()[2:])  # the rest follows from it
    freeze.freeze(config, folder, say=said.append)
    why = f"of which most is expected (trial {scored[0].number}'s higher score is probably luck)"
    assert f"frozen is trial {lower.number}, {why}" in said
    origin = freeze.constant(folder / "final_run.py")["origin"]
    assert (origin["trial"], origin["picked"]) == (lower.number, f"trial {lower.number}, {why}")
    freeze.check(config, folder)
    best = view.read(folder).best
    assert best is not None
    assert best.number == lower.number


def test_check_names_every_difference(study: tuple[Any, Path]) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    frozen = freeze.constant(path)
    rank, hours = frozen["recipe"]["rank"], frozen["hours"]
    frozen["recipe"]["rank"], frozen["hours"], frozen["versions"] = 999, 99.0, {"torch": "0.1"}
    frozen["recipe"]["sources"][1]["weight"] = 0.125
    path.write_text(freeze.render(frozen))
    with pytest.raises(FreezeDiffers) as raised:
        freeze.check(config, folder)
    message = str(raised.value)
    assert f"recipe.rank: 999 in final_run.py, {rank} in the study" in message
    assert f"hours: 99.0 in final_run.py, {hours} in the study" in message
    assert "recipe.sources[1].weight: 0.125 in final_run.py" in message
    assert "torch" not in message
    assert len(message.splitlines()) == 4


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text.replace("return 0", "return 1", 1), "was edited, or is another version's"),
        (lambda text: text + "\nimport this\n", "was edited, or is another version's"),
        (lambda text: text.replace("FROZEN = ", "FROZEN: dict = "), "is no final_run.py of Nightshift"),
        (lambda text: text.replace("def main", "def def main"), "is no final_run.py of Nightshift"),
        (lambda text: text.replace('"recipe":', '"recipe"', 1), "is no final_run.py of Nightshift"),
        (lambda text: "", "is no final_run.py of Nightshift"),
    ],
)
def test_check_refuses_a_file_with_other_code(study: tuple[Any, Path], edit: Any, says: str) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    path.write_text(edit(path.read_text()))
    with pytest.raises(FreezeDiffers, match=says):
        freeze.check(config, folder)


def test_a_file_that_was_edited_is_not_replaced(study: tuple[Any, Path]) -> None:
    config, folder = study
    path = freeze.freeze(config, folder)
    frozen = path.read_text()
    for edited in (
        frozen.replace('"checkpoint_minutes": ', '"checkpoint_minutes": 1', 1),
        frozen + "\nprint(1)\n",
        "x =",
    ):
        path.write_text(edited)
        with pytest.raises(FreezeDiffers, match=r"was edited, or is another version's, and is not replaced; .*: mv "):
            freeze.freeze(config, folder)
        assert path.read_text() == edited
    path.unlink()
    assert freeze.freeze(config, folder).read_text() == frozen


def test_check_without_a_file_names_the_command(study: tuple[Any, Path]) -> None:
    with pytest.raises(FreezeDiffers, match=r"`nightshift freeze .*tiny` writes it"):
        freeze.check(*study)


def test_without_a_complete_trial_the_others_are_counted(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="PFR")
    with pytest.raises(NothingToFreeze, match=r"\(1 failed, 1 pruned, 1 running\); go on with `nightshift start"):
        freeze.freeze(made.config, made.folder)
    assert not (made.folder / "final_run.py").exists()


def test_without_a_database_the_command_that_makes_it_is_named(made: made_study.MadeStudy, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nightshift start"):
        freeze.freeze(made.config, tmp_path)


def test_missing_files_of_the_best_trial_are_named(study: tuple[Any, Path]) -> None:
    config, folder = study
    number = freeze.constant(freeze.freeze(config, folder))["origin"]["trial"]
    (folder / "runs" / f"{number:03d}" / "result.json").unlink()
    with pytest.raises(SearchError, match=f"the files of trial {number}, the best one, are not there any more"):
        freeze.freeze(config, folder)


def test_changed_data_are_refused(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="C")
    with open(tmp_path / "plain.jsonl", "a") as data:
        data.write('{"prompt": "new", "response": "row"}\n')
    with pytest.raises(RecipeError, match="plain"):
        freeze.freeze(made.config, made.folder)


@pytest.mark.parametrize("name", ["model", "plain.jsonl"])
def test_what_lies_nowhere_any_more_is_to_be_put_back(tmp_path: Path, name: str) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="C")
    (tmp_path / name).rename(tmp_path / "moved")
    said = rf"{name}, which trial 0 was trained with, .* put it back there, or name its new place in study\.toml"
    with pytest.raises(RecipeError, match=said):
        freeze.freeze(made.config, made.folder)
    (tmp_path / "other.jsonl").write_text('{"prompt": "another", "response": "row"}\n' * 2)
    other = "chat.jsonl" if name == "plain.jsonl" else "other.jsonl"  # what lies there is not what was pinned
    file.write_text(file.read_text().replace(f'"{name}"', f'"{other}"'))
    with pytest.raises(RecipeError, match=said):
        freeze.freeze(config.load(file), made.folder)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model", "base: taken from {now} instead of {before}; its content is the one that the trial was trained with"),
        ("plain.jsonl", "plain: taken from {now} instead of {before}; its content is the one that the trial was "),
        ("prompts.jsonl", None),  # with which the data were compared
    ],
)
def test_what_was_moved_is_taken_from_where_the_study_file_names_it(
    tmp_path: Path, name: str, line: str | None
) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="C")
    before = freeze.constant(freeze.freeze(made.config, made.folder))
    (tmp_path / name).rename(tmp_path / f"moved-{name}")
    file.write_text(file.read_text().replace(f'"{name}"', f'"moved-{name}"'))
    moved, said = config.load(file), []
    with pytest.raises(FreezeDiffers, match="is not what the study says now"):
        freeze.check(moved, made.folder)
    frozen = freeze.constant(freeze.freeze(moved, made.folder, say=said.append))
    places = json.dumps(frozen["recipe"])
    assert str(tmp_path / f"moved-{name}") in places
    assert f'"{tmp_path / name}"' not in places
    assert recipe_in(frozen).base.sha256 == recipe_in(before).base.sha256
    assert frozen["origin"]["recipe_sha256"] == before["origin"]["recipe_sha256"]  # the trial's, as it was trained
    if line:
        told = line.format(now=tmp_path / f"moved-{name}", before=tmp_path / name)
        assert any(each.startswith(told) for each in said)
    freeze.check(moved, made.folder)


def test_missing_prompts_are_named(tmp_path: Path) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states="C")
    (tmp_path / "prompts.jsonl").unlink()
    with pytest.raises(ObjectiveError, match=r"prompts\.jsonl cannot be read"):
        freeze.freeze(made.config, made.folder)


def test_answers_that_would_not_fit_behind_the_prompts_are_refused(study: tuple[Any, Path]) -> None:
    config, folder = study
    final = config.final.model_copy(update={"max_new_tokens": 250})
    said = r"\d+ tokens .* 250 new ones .* 256 positions: freeze with max_new_tokens in \[final\] .* lowered to \d+"
    with pytest.raises(ObjectiveError, match=said):
        freeze.freeze(config.model_copy(update={"final": final}), folder)
