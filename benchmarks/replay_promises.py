"""What nights with power cuts have to keep to, against the same nights without: each breach is a sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from replay_nights import Story

from search.budget import LEASE_S
from search.study import SMALLER
from storage.records import TrialRecord


def broken(cut: Story, uncut: Story) -> list[str]:
    """Which promises those nights broke, each in a sentence."""
    apart = [*_of_ledger(cut), *_of_ledger(uncut), *_lost(cut), *_lost(uncut)]
    return [*apart, *_differing(cut, uncut), *_raced(cut, uncut)]


def _of_ledger(story: Story) -> Iterator[str]:
    if story.record.spent_s > story.plan.budget_s:
        yield f"{story.record.spent_s} s are spent of {story.plan.budget_s}"
    for over_s in overcharges(story):
        if not -1e-6 <= over_s <= LEASE_S + 1e-6:
            yield f"a cut overcharged by {over_s} s"
    for story_s in (story.record, story.closed):
        opened = [attempt for attempt in story_s.attempts if attempt.ended_at is None]
        if len(opened) > (story_s is story.record and not story.starts[-1].ending):
            yield f"attempts {[attempt.id for attempt in opened]} were left open"


def overcharges(story: Story) -> list[float]:
    """Of each attempt that a cut ended: seconds charged, less those from its beginning to the cut."""
    opened = {attempt: start.cut_at - at for start in story.starts for attempt, at in start.opened.items()}
    return [a.charged_s - opened.get(a.id, 0.0) for a in story.closed.attempts if a.outcome == "abandoned"]


def _lost(story: Story) -> Iterator[str]:
    """What was finished and is not there any more, was counted twice, or was left running."""
    for earlier in story.kept:
        for number, result in earlier.items():
            if story.kept[-1].get(number) != result:
                yield f"trial {number}'s result is not what it was"
    records = {record.number: record for record in story.closed.trials}
    for number, result in story.kept[-1].items():
        state = {"completed": "complete"}.get(result["outcome"], result["outcome"])
        if records[number].state != state or records[number].value != result.get("value"):
            yield f"trial {number} was {result['outcome']} and is recorded as {records[number].state}"
    if running := [record.number for record in records.values() if record.state == "running"]:
        yield f"trials {running} are still running"
    whole = [a.run for a in story.closed.attempts if a.outcome in ("completed", "pruned", "failed")]
    if twice := {run for run in whole if whole.count(run) > 1}:
        yield f"the runs {twice} ended twice"
    if [record.number for record in story.closed.trials] != list(range(len(records))):
        yield "the trials are not numbered through"


def _differing(cut: Story, uncut: Story) -> Iterator[str]:
    """Trials of the same number that are not the same. What the cuts cost may only be seen at the end: in trials that
    are missing, and in what is tried once the budget is too small for what looked best."""
    for one, other in zip(cut.record.trials, uncut.record.trials, strict=False):
        if SMALLER in one.user_attrs or SMALLER in other.user_attrs:
            return
        if one.finished and other.finished and _shown(one) != _shown(other):
            yield f"trial {one.number} is {_shown(one)}, and {_shown(other)} without cuts"


def _raced(cut: Story, uncut: Story) -> Iterator[str]:
    """A final race that was not made where trials were scored, or was won by another trial though all trials are the
    same."""
    for story in (cut, uncut):
        scored = [record for record in story.closed.trials if record.user_attrs.get("score")]
        if bool(story.last_race and story.last_race.winner is not None) != bool(scored):
            yield f"of {len(scored)} scored trials, none won the final race: {story.last_race}"
    alike = list(map(_shown, cut.closed.trials)) == list(map(_shown, uncut.closed.trials))
    if alike and cut.last_race != uncut.last_race:
        yield f"{cut.last_race}, and {uncut.last_race} without cuts"


def same(cut: Story, uncut: Story) -> int:
    """How many trials, from the first on, are the same."""
    pairs = zip(cut.record.trials, uncut.record.trials, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].finished and _shown(pair[0]) == _shown(pair[1]), pairs))


def _shown(record: TrialRecord) -> tuple[Mapping[str, Any], str, float | None, Mapping[int, float]]:
    return record.params, record.state, record.value, record.rungs
