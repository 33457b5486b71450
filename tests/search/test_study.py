"""What may change in a study, and until when."""

from __future__ import annotations

from pathlib import Path

import made_study
import pytest

from search import config, survey
from search.errors import StudyChanged
from search.study import Study
from storage import trials


def opened_with_other_prompts(made: made_study.MadeStudy) -> Study:
    changed = config.load(made.config.path)
    prompts = changed.objective.prompts
    prompts.write_text(prompts.read_text() + "\n")
    storage = trials.open_storage(made.folder / "study.db")
    try:
        return Study.open(storage, changed, survey.survey(changed))
    finally:
        storage.engine.dispose()


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return made_study.write_study_file(tmp_path)


def test_before_a_trial_has_begun_everything_may_change(study_file: Path, tmp_path: Path) -> None:
    made = made_study.MadeStudy(study_file, tmp_path / "tiny", states="")
    study = opened_with_other_prompts(made)
    assert study.anew
    assert [record.state for record in study.records()] == ["waiting"] * len(made.config.prior)
    again = opened_with_other_prompts(made)  # changed once more
    assert again.anew
    assert len(again.records()) == len(made.config.prior)


def test_once_a_trial_has_begun_it_may_not(study_file: Path, tmp_path: Path) -> None:
    made = made_study.MadeStudy(study_file, tmp_path / "tiny", states="P")
    with pytest.raises(StudyChanged, match=r"(?s)give the study a new name:.*-prompts = .*\+prompts = "):
        opened_with_other_prompts(made)
