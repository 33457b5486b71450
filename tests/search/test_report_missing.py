"""Reports of studies that lack something: what is not there yet, what is gone, what another version wrote."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import made_study
import pytest
from told_report import SECTIONS, change, said, told

from search import report
from search.errors import SearchError
from storage.db import StorageError


def test_without_a_final_run_the_command_is_named(study: Path) -> None:
    shutil.rmtree(study / "final")
    shown = said(told(study))
    assert "The final run has not been started." in shown
    assert f"python {study / 'final_run.py'}" in shown
    assert "best trial" in shown


def test_a_final_run_under_way_is_told(study: Path) -> None:
    (study / "final" / "result.json").unlink()
    assert "The final run has not ended yet." in said(told(study))


def test_without_a_freeze_the_command_is_named(study: Path) -> None:
    shutil.rmtree(study / "final")
    (study / "final_run.py").unlink()
    shown = said(told(study))
    assert "The best trial is not frozen yet." in shown
    assert f"nightshift freeze {study}" in shown
    assert "as it was searched" in shown


def test_an_edited_freeze_is_told(study: Path) -> None:
    shutil.rmtree(study / "final")
    with open(study / "final_run.py", "a") as file:
        file.write("\nprint()\n")
    assert "was edited, or is another version's" in said(told(study))


def test_a_base_model_that_is_gone_leaves_out_the_layers(study: Path) -> None:
    path = study / "study.toml"
    path.write_text(path.read_text().replace('model = "model"', 'model = "elsewhere"'))
    for recipe in study.glob("**/recipe.json"):
        recipe.write_text(recipe.read_text().replace("/model", "/elsewhere"))
    assert "The base model is not where the recipe says" in said(told(study))


@pytest.mark.parametrize("states", ["", "P", "XX", "R", "C", "CCCCC"])
def test_a_study_that_has_hardly_begun(tmp_path: Path, states: str) -> None:
    file = made_study.write_study_file(tmp_path)
    made = made_study.MadeStudy(file, tmp_path / "studies" / "tiny", states=states)
    document = told(made.folder)
    shown = said(document)
    assert [section.title for section in document.sections] == SECTIONS
    assert "cannot be told" not in shown
    assert ("nightshift start" in shown) == ("C" not in states)
    assert "Parameter importances need at least 6 complete trials" in shown or not states


def test_where_no_study_is_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="nightshift start"):
        report.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["study.toml", "final/recipe.json", "final/events.jsonl", "final/samples.jsonl", "runs/base/result.json", "runs"],
)
def test_files_that_are_gone_are_no_obstacle(study: Path, name: str) -> None:
    path = study / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    document = told(study)
    assert [section.title for section in document.sections] == SECTIONS
    assert "cannot be told" not in said(document)


@pytest.mark.parametrize("key", ["scores", "base_scores", "latency", "size", "seconds", "outcome", "tokens"])
def test_a_final_run_without_a_figure_is_told_without_it(study: Path, key: str) -> None:
    change(study / "final" / "result.json", **{key: None})
    document = told(study)
    assert "cannot be told" not in said(document)
    if key in ("latency", "size"):
        assert f"nightshift latency {study / 'final'}" in said(document)


@pytest.mark.parametrize("name", ["final/recipe.json", "final/result.json", "final/clock.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"score": 3, "scores": {"all": 3}, "spent_s": "x"}'])
def test_files_that_are_not_what_they_were_are_named(study: Path, name: str, content: str) -> None:
    (study / name).write_text(content)
    assert "Not all could be read: " in said(told(study))
    assert f"{name} is not what this version writes" in said(told(study))


def test_scores_that_are_none_are_left_out(study: Path) -> None:
    shutil.rmtree(study / "final")
    for run in ("base", "000"):
        (study / "runs" / run / "result.json").write_text('{"score": 3}')
    shown = said(told(study))
    assert "score in runs/base/result.json is not what this version writes" in shown
    assert "cannot be told" not in shown


def test_trials_that_another_version_recorded_are_refused(study: Path) -> None:
    with closing(sqlite3.connect(study / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_params SET param_value = 99")
    with pytest.raises(SearchError, match=r"not what this version writes .*make its report with the version that made"):
        told(study)


def test_a_section_that_stumbles_says_so_and_the_others_stand(study: Path) -> None:
    frozen = study / "final_run.py"
    frozen.write_text(frozen.read_text().replace('"origin": {', '"origins": {', 1))
    document = told(study)
    assert [section.title for section in document.sections] == SECTIONS
    assert "cannot be told: its records are not what this version writes (KeyError('origin'))" in said(document)


def test_a_database_of_another_version_is_refused(study: Path) -> None:
    with closing(sqlite3.connect(study / "study.db")) as connection, connection:
        connection.execute("ALTER TABLE attempt DROP COLUMN pid_started")
    with pytest.raises((SearchError, StorageError), match=r"\S"):
        told(study)
