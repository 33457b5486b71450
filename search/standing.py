"""How the trials of a study stand to each other: the incumbent, what earlier ones did on every prompt, and the trial
that is expected to be best.

`best.json` holds the last one for whoever looks on: to find it out takes NumPy and SciPy (search.ranking).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from objectives.score import Score
from search import onlookers
from storage.records import TrialRecord
from train.rundir import Json, RunDir, read_json

FILE = "best.json"
EARLIER = 200  # complete trials, at most, from whose verdicts a trial's order of prompts learns
BEHIND = "behind"  # user attribute of a trial that was ended as worse than the incumbent: the incumbent's number


def whole(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that were asked the whole reference set, the highest value first; of equals, the older."""
    asked = [r for r in records if r.state == "complete" and r.value is not None and BEHIND not in r.user_attrs]
    return sorted(asked, key=lambda r: (-(r.value or 0.0), r.number))


def incumbent(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The first of those."""
    return next(iter(whole(records)), None)


def keep(folder: Path, best: TrialRecord | None, records: Sequence[TrialRecord]) -> None:
    """Leave for others to read which of these trials is expected to be best."""
    told = {"scored": len(whole(records)), "best": best.number if best else None}
    onlookers.keep(folder / FILE, told)


def expected(folder: Path, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial that `keep` left, unless trials have been scored since."""
    told, scored = onlookers.kept(folder / FILE), whole(records)
    if told.get("scored") != len(scored):
        return None
    return next((record for record in scored if record.number == told.get("best")), None)


def contest(runs: Path, records: Sequence[TrialRecord], number: int) -> Json:
    """What trial `number` is compared with, for its job: by the number of each complete trial before it, what that one
    did on every prompt it was asked (key -> [followed, tokens]), and which of them is the incumbent.

    Of many trials, the newest `EARLIER` and the incumbent: hundreds of them tell how hard a prompt is, and thousands
    are seconds to read. Trials end one after another and their results never change, so a trial that was interrupted
    is given the same.
    """
    before = [r for r in records if r.number < number and r.state == "complete"]
    found: dict[int, dict[str, list[int]]] = {}
    best, left = None, before
    while (first := incumbent(left)) and not best:
        found[first.number] = asked(runs, first.number)
        best = first if found[first.number] else None
        left = [r for r in left if r is not first]
    found |= {r.number: asked(runs, r.number) for r in before[-EARLIER:] if r.number not in found}
    return {
        "earlier": {str(trial): verdicts for trial, verdicts in sorted(found.items()) if verdicts},
        "incumbent": best.number if best else None,
    }


def asked(runs: Path, number: int) -> dict[str, list[int]]:
    """Whether a trial followed each prompt that it was asked, and the tokens of its answer; empty without a score."""
    result = read_json(RunDir(runs / f"{number:03d}").result)
    if result is None or not result.get("score"):
        return {}
    score = Score.model_validate(result["score"], strict=False)
    return {str(verdict.key): [int(verdict.followed), verdict.tokens] for verdict in score.verdicts}
