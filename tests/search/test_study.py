"""What may change in a study, and until when."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import made_study
import pytest

from search import config, survey
from search.errors import StudyChanged
from search.study import Study
from storage import records, trials


def opened_with_other_prompts(made: made_study.MadeStudy, forgotten: list[int]) -> Study:
    """Opened after a change; `forgotten` gets the number of trials that were there when it asked to forget."""
    changed = config.load(made.config.path)
    prompts = changed.objective.prompts
    prompts.write_text(prompts.read_text() + "\n")
    storage = trials.open_storage(made.folder / "study.db")
    try:
        database = made.folder / "study.db"
        forget = partial(_note_trials, database, forgotten)
        return Study.open(storage, changed, survey.survey(changed), forget=forget)
    finally:
        storage.engine.dispose()


def _note_trials(database: Path, into: list[int]) -> None:
    into.append(len(records.read(database).trials))


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return made_study.write_study_file(tmp_path)


def test_before_a_trial_has_begun_everything_may_change(study_file: Path, tmp_path: Path) -> None:
    made = made_study.MadeStudy(study_file, tmp_path / "tiny", states="")
    forgotten: list[int] = []
    priors = len(made.config.prior)
    study = opened_with_other_prompts(made, forgotten)
    assert [record.state for record in study.records()] == ["waiting"] * priors
    again = opened_with_other_prompts(made, forgotten)  # changed once more
    assert len(again.records()) == priors
    assert forgotten == [priors, priors]  # each time before the database changed


def test_once_a_trial_has_begun_it_may_not(study_file: Path, tmp_path: Path) -> None:
    made = made_study.MadeStudy(study_file, tmp_path / "tiny", states="P")
    forgotten: list[int] = []
    with pytest.raises(StudyChanged, match=r"(?s)give the study a new name:.*-prompts = .*\+prompts = "):
        opened_with_other_prompts(made, forgotten)
    assert forgotten == []
