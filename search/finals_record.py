"""The final race in a study's folder: the answers to fresh prompts, what they say, and what a race will need.

Every turn (so many fresh prompts, answered by one finalist) is a run of its own, `runs/fresh-007-20`, whose result
never changes once it is there; a turn that was cut off keeps its answers. `race.json` is how the race stands by these
results, for whoever looks on; it is written anew by the next start.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from objectives.score import Measure, Score
from search import onlookers
from search.budget import START_RESERVE_S
from search.finals import Finalist, Race, Turn, run, stages
from search.standing import expected, whole
from storage.records import TrialRecord
from train.rundir import Json, RunDir, read_json

if TYPE_CHECKING:  # most looks at a study need no study file
    from search.config import StudyConfig

FILE = "race.json"
NAMED = "fresh-"  # how the names of turns' runs begin
RECENT = 20  # scored trials that show what a prompt takes
MARGIN = 1.25  # how much longer an answer may take than it did on average and still be paid for
TURN_S = 0.5  # of a process, beside the answers: loading an adapter, settling


def turn_run(runs: Path, turn: Turn) -> RunDir:
    """Where a turn's job and result lie."""
    return RunDir(runs / f"{NAMED}{turn.trial:03d}-{turn.begin}")


def trial_of(name: str) -> int | None:
    """The trial whose turn a run of this name is; None for another run."""
    return int(name.removeprefix(NAMED).split("-")[0]) if name.startswith(NAMED) else None


def race(config: StudyConfig, runs: Path, best: Sequence[TrialRecord], search_half: int) -> Race | None:
    """How the race of these trials stands; None where there is none to be: nobody to race, or nothing to ask."""
    fresh = search_half - config.objective.subset
    if not best or not fresh:
        return None
    ends = stages(fresh, config.objective.batch_size)
    return run([_finalist(runs, record, ends) for record in best], ends, fresh)


def _finalist(runs: Path, record: TrialRecord, ends: Sequence[int]) -> Finalist:
    """A trial with what its turns say so far."""
    score = Measure.model_validate(record.user_attrs["score"])
    fresh: tuple[bool, ...] = ()
    for begin, end in zip((0, *ends), ends, strict=False):
        found = result(turn_run(runs, Turn(record.number, begin, end)))
        if found is None:
            break
        if found["outcome"] == "failed":
            return Finalist(record.number, score, fresh, f"could not be asked: {found['reason']}")
        fresh += tuple(v.followed for v in Score.model_validate(found["score"], strict=False).verdicts)
    return Finalist(record.number, score, fresh)


def result(run: RunDir) -> Json | None:
    """How a turn ended; None before that."""
    found = read_json(run.result)
    return found if found and found["outcome"] in ("completed", "failed") else None


def keep(folder: Path, race: Race, records: Sequence[TrialRecord]) -> None:
    """Leave the race between the best of these trials for others to read."""
    told = {"scored": len(whole(records)), "race": _written().dump_python(race, mode="json")}
    onlookers.keep(folder / FILE, told)


def kept(folder: Path, records: Sequence[TrialRecord]) -> Race | None:
    """What `keep` left, unless trials have been scored since, which might have raced, too, or it is not of these."""
    told, scored = onlookers.kept(folder / FILE), {record.number for record in whole(records)}
    if told.get("scored") != len(scored):
        return None
    try:
        race = _written().validate_python(told.get("race"))
    except ValidationError:
        return None
    return race if {runner.trial for runner in race.runners} <= scored else None


@functools.cache
def _written() -> TypeAdapter[Race]:
    """How a race is written down."""
    return TypeAdapter(Race)


@dataclass(frozen=True)
class Pick:
    """The trial to take, and by what: it won the final `race`; before there is a winner, most is `expected` of it; and
    where that is not known, it has the highest `score`. `luckier` has a higher score than one that most is expected of.
    """

    trial: int
    by: Literal["race", "expected", "score"]
    luckier: int | None = None

    def __str__(self) -> str:
        """With the reason: `trial 3, of which most is expected (trial 5's higher score is probably luck)`."""
        why = {
            "race": "which won the final race",
            "expected": "of which most is expected",
            "score": "which has the highest score",
        }
        luck = "" if self.luckier is None else f" (trial {self.luckier}'s higher score is probably luck)"
        return f"trial {self.trial}, {why[self.by]}{luck}"


def pick(folder: Path, records: Sequence[TrialRecord]) -> Pick | None:
    """The trial to take, by what the loop has left; None before one was asked the whole reference set."""
    scored, race = whole(records), kept(folder, records)
    if race and race.winner is not None:
        return Pick(race.winner, "race")
    if not scored:
        return None
    first, best = scored[0], expected(folder, records)
    if best is None:
        return Pick(first.number, "score")
    return Pick(best.number, "expected", first.number if first.value != best.value else None)


def won(folder: Path, records: Sequence[TrialRecord]) -> Json | None:
    """What is frozen of a race that is decided."""
    race = kept(folder, records)
    if race is None or race.fresh is None:
        return None
    return {"finalists": [each.trial for each in race.runners], "fresh": race.fresh.model_dump(), "said": str(race)}


def nothing_to_ask(config: StudyConfig, search_half: int) -> str:
    """Why a study that wants a race cannot have one, or an empty string. `search_half` 0: not known."""
    if not config.study.finalists or not search_half or search_half > config.objective.subset:
        return ""
    return f"no final race: subset is all of the search half, {search_half} prompts, so that none of them is fresh"


def needed_s(config: StudyConfig, runs: Path, records: Sequence[TrialRecord], search_half: int) -> float:
    """GPU-seconds that have to be left for the race once another trial has ended: all finalists, asked everything, by a
    process that has to load the base model first, as in the night after that of the last trial."""
    scored = whole(records)
    if not scored:
        return 0.0
    newest = sorted(scored, key=lambda record: record.number)[-RECENT:]
    prompt_s = [each for record in newest if (each := _prompt_s(RunDir(runs / f"{record.number:03d}")))]
    if not prompt_s:
        return 0.0
    count = min(config.study.finalists, len(scored) + 1)
    return race_s(config, search_half, count, statistics.fmean(prompt_s), load_s(runs))


def race_s(config: StudyConfig, search_half: int, finalists: int, prompt_s: float, load_s: float) -> float:
    """GPU-seconds of a race of so many in which all answer everything, by those of an answer, and those of loading the
    base model; none where there is nothing to ask. `search_half` 0: not known."""
    fresh = search_half - config.objective.subset
    if fresh <= 0 or not finalists:
        return 0.0
    turns = len(stages(fresh, config.objective.batch_size))
    each_s = fresh * MARGIN * prompt_s + turns * TURN_S
    return float(math.ceil(finalists * each_s + load_s + START_RESERVE_S))


def load_s(runs: Path) -> float:
    """Seconds that a process took to load the base model, when that was scored."""
    return float((read_json(RunDir(runs / "base").result) or {}).get("seconds", {}).get("load", 0.0))


def _prompt_s(run: RunDir) -> float | None:
    """Seconds that a trial took to answer a prompt of its score."""
    score = (read_json(run.result) or {}).get("score")
    return score["seconds"] / len(score["verdicts"]) if score else None
