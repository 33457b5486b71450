"""Which trial the others are compared with, and what an interrupted trial is told of those before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_study
import pytest

from search import standing, view
from storage import db, records
from storage.records import TrialRecord

record = made_study.record


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([], None),
        ([record(0, 0.9, "pruned"), record(1, 0.1)], 1),
        ([record(0, 0.2), record(1, 0.7), record(2, 0.7)], 1),
        ([record(0, 0.0), record(1, None, "failed")], 0),
        ([record(0, 0.5), record(1, 0.9, user_attrs={"behind": 0})], 0),
    ],
)
def test_the_incumbent_has_the_highest_value_of_those_that_were_asked_everything(
    trials: list[TrialRecord], best: int | None
) -> None:
    found = standing.incumbent(trials)
    assert (found.number if found else None) == best


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> made_study.MadeStudy:
    root = tmp_path_factory.mktemp("standing")
    return made_study.MadeStudy(made_study.write_study_file(root), root / "studies" / "tiny", states="CBPCFCR")


def test_the_trial_that_is_expected_to_be_best_is_read_as_it_was_kept(tmp_path: Path) -> None:
    trials = [record(0, 0.7), record(1, None, "pruned"), record(2, 0.9)]
    assert standing.expected(tmp_path, trials) is None
    standing.keep(tmp_path, trials[0], trials)
    assert standing.expected(tmp_path, trials) is trials[0]
    assert standing.expected(tmp_path, trials[:2]) is None  # of other scored trials
    standing.keep(tmp_path, None, trials[1:2])
    assert standing.expected(tmp_path, trials[1:2]) is None


@pytest.mark.parametrize("content", ["", '{"scored": 1, "be', "[]", '{"scored": 1, "best": 7}', '{"scored": 1}'])
def test_a_damaged_file_says_nothing_and_is_written_anew(tmp_path: Path, content: str) -> None:
    trials = [record(0, 0.7)]
    (tmp_path / standing.FILE).write_text(content)
    assert standing.expected(tmp_path, trials) is None
    standing.keep(tmp_path, trials[0], trials)
    assert standing.expected(tmp_path, trials) is trials[0]


def trials_of(made: made_study.MadeStudy) -> list[TrialRecord]:
    db.check(made.folder / "study.db")
    return records.read(made.folder / "study.db").trials


def test_a_trial_is_compared_with_the_complete_ones_before_it(made: made_study.MadeStudy) -> None:
    runs, trials = made.folder / "runs", trials_of(made)
    told = standing.contest(runs, trials, 5)
    assert list(told["earlier"]) == ["0", "1", "3"]
    assert [len(verdicts) for verdicts in told["earlier"].values()] == [8, 4, 8]
    assert all(followed in (0, 1) and tokens == 40 for followed, tokens in told["earlier"]["1"].values())
    best = max((trials[number] for number in (0, 3)), key=lambda trial: (trial.value, -trial.number))
    assert told["incumbent"] == best.number
    # whatever ended since: the same again
    assert standing.contest(runs, trials[:5], 5) == told
    assert standing.contest(runs, trials, 0) == {"earlier": {}, "incumbent": None}


def test_a_trial_whose_files_are_gone_is_not_compared_with(made: made_study.MadeStudy, tmp_path: Path) -> None:
    assert standing.contest(tmp_path, trials_of(made), 6) == {"earlier": {}, "incumbent": None}


def test_the_view_tells_an_estimate_from_a_score(made: made_study.MadeStudy) -> None:
    study = view.read(made.folder)
    behind = study.trials[1]
    assert (behind.state, behind.score, behind.value, behind.asked, behind.behind) == ("complete", None, 0.0, 4, 0)
    assert behind.reason == "behind trial 0 after 4 of 8 prompts"
    assert study.trials[0].asked == 8
    assert study.best is not None
    assert study.best.number == max((0, 3, 5), key=lambda number: (study.trials[number].value, -number))


def test_of_many_trials_the_newest_and_the_incumbent_are_told(
    made: made_study.MadeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, trials = made.folder / "runs", trials_of(made)
    best = standing.contest(runs, trials, 6)["incumbent"]
    monkeypatch.setattr(standing, "EARLIER", 1)
    told = standing.contest(runs, trials, 6)
    assert told["incumbent"] == best
    assert set(told["earlier"]) == {str(best), "5"}


def test_a_view_of_few_rows_has_the_newest_trials_and_the_best_one_whole(made: made_study.MadeStudy) -> None:
    whole, brief = view.read(made.folder), view.read(made.folder, 2)
    assert (brief.best, brief.trials[-2:]) == (whole.best, whole.trials[-2:])
    assert replace(brief, trials=()) == replace(whole, trials=())
    assert [t.state for t in brief.trials] == [t.state for t in whole.trials]
    assert brief.trials[2].params == {}
