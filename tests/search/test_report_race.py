"""What a report says of the final race."""

from __future__ import annotations

from pathlib import Path

import made_study
import pytest
from told_report import rows, said, told

from objectives.score import Measure
from search import finals_record, view
from search.finals import Race, Runner, Turn
from storage import records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = made_study.write_study_file(tmp_path, finalists=2)
    made_study.MadeStudy(path, tmp_path / "studies" / "tiny", states="CC")
    return tmp_path / "studies" / "tiny"


def raced(folder: Path, winner: int | None) -> None:
    score, fresh = Measure.of([True] * 5 + [False] * 3), Measure.of([True, False, False, False])
    runners = (
        Runner(0, score, fresh),
        Runner(1, score, fresh, "behind trial 0 after 4 prompts" if winner == 0 else ""),
    )
    race = Race(runners, 4, 4 if winner == 0 else 0, Turn(0, 0, 4) if winner is None else None, winner)
    finals_record.keep(folder, race, records.read(folder / "study.db").trials)


def test_before_the_race_the_command_that_makes_it_is_told(folder: Path) -> None:
    assert "The best trials were not compared on fresh prompts yet." in said(told(folder))
    raced(folder, None)
    assert "The race is not over." in said(told(folder))


def test_who_raced_who_is_out_and_who_won_is_told(folder: Path) -> None:
    raced(folder, 0)
    document = told(folder)
    assert "trial 0 won the final race of 2: 0.250 ± 0.217 on 4 fresh prompts" in said(document)
    assert ("1", "0.625 ± 0.171", "0.250 ± 0.217", "4", "behind trial 0 after 4 prompts") in rows(document)
    assert view.read(folder).best == view.read(folder).trials[0]


def test_a_race_is_not_told_of_trials_that_were_not_there(folder: Path) -> None:
    raced(folder, 0)
    held = records.read(folder / "study.db").trials
    assert finals_record.kept(folder, held) is not None
    assert finals_record.kept(folder, held[:1]) is None


def test_a_study_that_wants_no_race_says_nothing_of_it(tmp_path: Path) -> None:
    path = made_study.write_study_file(tmp_path, finalists=0)
    made_study.MadeStudy(path, tmp_path / "studies" / "tiny", states="CC")
    assert "fresh prompts" not in said(told(tmp_path / "studies" / "tiny"))
