"""What is kept of the budget for the final race, and which trials race."""

from __future__ import annotations

import math
from pathlib import Path

import made_study
import pytest

from objectives.score import Measure
from search import config, finals_record, standing
from search.affordable import Left
from search.budget import START_RESERVE_S
from search.config import StudyConfig
from search.finals import Finalist, run
from storage import records
from storage.records import TrialRecord
from train.rundir import RunDir, read_json, write_json

HALF = 12  # prompts, of which a trial is asked 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> made_study.MadeStudy:
    root = tmp_path_factory.mktemp("finals")
    path = made_study.write_study_file(root, finalists=3)
    return made_study.MadeStudy(path, root / "studies" / "tiny", states="PCBCC")


def needed(made: made_study.MadeStudy, trials: list[TrialRecord], of: StudyConfig | None = None) -> float:
    return finals_record.needed_s(of or made.config, made.folder / "runs", trials, HALF)


def trials_of(made: made_study.MadeStudy) -> list[TrialRecord]:
    return records.read(made.folder / "study.db").trials


def test_the_race_needs_what_its_finalists_take_to_answer_as_they_answered_before(made: made_study.MadeStudy) -> None:
    trials, fresh = trials_of(made), HALF - made.config.objective.subset
    told = read_json(RunDir(made.folder / "runs" / "001").result)
    assert told is not None
    prompt_s = told["score"]["seconds"] / len(told["score"]["verdicts"])
    one_s = fresh * finals_record.MARGIN * prompt_s + finals_record.TURN_S
    rest_s = START_RESERVE_S + finals_record.load_s(made.folder / "runs")
    assert needed(made, trials[:1]) == 0.0  # nobody to race yet
    assert needed(made, trials[:3]) == math.ceil(2 * one_s + rest_s)  # the next one may race, too
    assert needed(made, trials) == math.ceil(3 * one_s + rest_s)


def test_nothing_is_kept_where_nobody_races(made: made_study.MadeStudy, tmp_path: Path) -> None:
    none = config.load(made_study.write_study_file(tmp_path, finalists=0))
    assert needed(made, trials_of(made), none) == 0.0
    runs, trials, subset = made.folder / "runs", trials_of(made), made.config.objective.subset
    assert finals_record.needed_s(made.config, runs, trials, subset) == 0.0  # no fresh prompt


def test_what_is_kept_is_nothing_that_a_trial_may_use() -> None:
    assert Left(100.0, 20.0, kept_s=30.0).seconds == 50.0
    assert Left(100.0, 80.0, kept_s=30.0).seconds == 0.0


def test_a_race_of_made_trials_begins_with_the_better_one(made: made_study.MadeStudy) -> None:
    whole = [record for record in trials_of(made) if record.number in (4, 1)]
    race = finals_record.race(made.config, made.folder / "runs", whole[::-1], HALF)
    assert race is not None
    assert race.next is not None
    assert (race.next.trial, race.next.begin, race.next.end) == (4, 0, 4)
    assert finals_record.race(made.config, made.folder / "runs", [], HALF) is None
    assert finals_record.race(made.config, made.folder / "runs", whole, 8) is None


@pytest.mark.parametrize(
    ("name", "trial"), [("fresh-007-20", 7), ("fresh-1234-0", 1234), ("007", None), ("base", None)]
)
def test_a_turns_run_tells_its_trial(name: str, trial: int | None) -> None:
    assert finals_record.trial_of(name) == trial


def test_a_race_is_read_as_it_was_kept_and_another_versions_is_none(tmp_path: Path, made: made_study.MadeStudy) -> None:
    trials = trials_of(made)
    race = run([Finalist(1, Measure.of([True]), (True, False))], (2,), 2)
    finals_record.keep(tmp_path, race, trials)
    assert finals_record.kept(tmp_path, trials) == race
    told = read_json(tmp_path / finals_record.FILE)
    assert told is not None
    for other in ({"race": told["race"]}, {**told, "race": None}, {**told, "race": {"winner": 1}}):
        write_json(tmp_path / finals_record.FILE, other)
        assert finals_record.kept(tmp_path, trials) is None


def test_the_winner_is_picked_before_the_one_expected_to_be_best_and_that_one_before_the_highest_score(
    tmp_path: Path,
) -> None:
    trials = [made_study.record(0, 0.7), made_study.record(1, 0.5), made_study.record(2, 0.9, user_attrs={"behind": 0})]
    assert finals_record.pick(tmp_path, []) is finals_record.pick(tmp_path, trials[2:]) is None
    assert str(finals_record.pick(tmp_path, trials)) == "trial 0, which has the highest score"
    standing.keep(tmp_path, trials[0], trials)
    assert str(finals_record.pick(tmp_path, trials)) == "trial 0, of which most is expected"
    standing.keep(tmp_path, trials[1], trials)
    told = "trial 1, of which most is expected (trial 0's higher score is probably luck)"
    assert str(finals_record.pick(tmp_path, trials)) == told
    finals_record.keep(tmp_path, run([Finalist(0, Measure.of([True]), (True, False))], (2,), 2), trials)
    assert str(finals_record.pick(tmp_path, trials)) == "trial 0, which won the final race"
    more = [*trials, made_study.record(3, 0.6)]  # scored since, so that both are out of date
    assert str(finals_record.pick(tmp_path, more)) == "trial 0, which has the highest score"


@pytest.mark.parametrize("content", ["", '{"scored": 1, "ra', "[]"])
def test_a_damaged_race_says_nothing_and_is_written_anew(
    tmp_path: Path, made: made_study.MadeStudy, content: str
) -> None:
    trials, race = trials_of(made), run([Finalist(1, Measure.of([True]), (True, False))], (2,), 2)
    (tmp_path / finals_record.FILE).write_text(content)
    assert finals_record.kept(tmp_path, trials) is None
    finals_record.keep(tmp_path, race, trials)
    assert finals_record.kept(tmp_path, trials) == race


def test_a_race_of_trials_that_the_study_has_not_says_nothing(tmp_path: Path) -> None:
    trials = [made_study.record(0, 0.7), made_study.record(1, 0.5)]
    finals_record.keep(tmp_path, run([Finalist(9, Measure.of([True]), (True, False))], (2,), 2), trials)
    assert finals_record.kept(tmp_path, trials) is None
    assert str(finals_record.pick(tmp_path, trials)) == "trial 0, which has the highest score"
