"""Which of a study's trials are best: not those with the highest score, but those that will probably be best again.

A score of a few dozen prompts is partly luck. What the surrogate expects of a trial (search.surrogate) weighs it with
the trials of similar recipes; picked so, the best trial of a night is better than the one with the highest score
(docs/search-choices.md). Takes a moment to import: NumPy and SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search import standing
from search.config import StudyConfig
from search.points import Points
from search.policy import Policy
from search.tried import ENDED, Outcome, Tried, tried
from storage.records import TrialRecord


@dataclass(frozen=True)
class Ranked:
    """A trial that was asked the whole reference set; `expected`: the share of prompts that such a trial follows."""

    record: TrialRecord
    expected: float


def ranked(config: StudyConfig, records: Sequence[TrialRecord]) -> list[Ranked]:
    """The trials that were asked the whole reference set, the best first.

    Of thousands, those alone that the policy reckons with, the newest and the best (search.policy).
    """
    scored = standing.whole(records)
    if not scored:
        return []
    told = [trial for record in records if (trial := _tried(record)) and trial.tells]
    expected = Policy(Points(config.space, config.recipe), told).expected()
    found = [Ranked(record, expected[record.number]) for record in scored if record.number in expected]
    return sorted(found, key=lambda each: -each.expected)


def _tried(record: TrialRecord) -> Tried | None:
    if record.state not in ENDED:
        return None
    params = {name: value for name, value in record.params.items() if value is not None}
    return tried(record.number, params, Outcome(record.state, record.value, record.rungs, record.user_attrs))
