"""Which trials are ranked, and that luck is seen through."""

from __future__ import annotations

from typing import Any

import made_study
import pytest

from search import config
from search.config import StudyConfig
from search.ranking import ranked
from search.standing import BEHIND
from storage.records import State, TrialRecord


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study whose space has a learning rate and a rank."""
    return config.load(made_study.write_study_file(tmp_path_factory.mktemp("ranking")))


def record(number: int, rate: float, value: float | None, state: State = "complete", **attrs: Any) -> TrialRecord:
    """A trial of this learning rate, all else being equal."""
    params = {"learning_rate": rate, "rank": 8, "targets": "all-linear", "dpo_share": 0.0}
    return TrialRecord(number, number, state, value, params, {"prompts_asked": 64} | attrs, {25: -1.5}, {}, None, None)


def test_a_lucky_score_among_poor_ones_is_not_the_best(studied: StudyConfig) -> None:
    good = [record(number, 0.008 + number * 1e-4, 0.70 + 0.01 * (number % 3)) for number in range(6)]
    poor = [record(number, 4e-4 + number * 1e-6, 0.10) for number in range(6, 12)]
    lucky = record(12, 4.2e-4, 0.74)
    found = ranked(studied, [*good, *poor, lucky])
    assert max((one.record for one in found), key=lambda r: r.value or 0.0) is lucky
    assert found[0].record.number in range(6)
    assert next(one.expected for one in found if one.record is lucky) < 0.7


def test_only_whole_scores_are_ranked_and_the_others_tell(studied: StudyConfig) -> None:
    records = [
        record(0, 0.005, 0.6),
        record(1, 0.006, 0.9, behind=0),
        record(2, 0.007, None, "pruned"),
        record(3, 0.001, None, "failed", reason="its loss is not finite"),
        record(4, 0.001, None, "running"),
        record(5, 0.001, None, "pruned", infeasible="8 GiB too many"),
    ]
    assert BEHIND == "behind"
    assert [one.record.number for one in ranked(studied, records)] == [0]
    assert ranked(studied, records)[0].expected > ranked(studied, records[:1])[0].expected


def test_without_a_trial_that_tells_nothing_is_ranked(studied: StudyConfig) -> None:
    assert ranked(studied, []) == []
    assert ranked(studied, [record(0, 0.001, None, "running")]) == []
