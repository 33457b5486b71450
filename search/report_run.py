"""One run's folder as a record: its recipe, what it gave, and how its hours went. What cannot be read is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from objectives.agreement import Agreement
from objectives.score import Score
from train.decisions import FILE, holding
from train.horizon import Decision
from train.planning import plan
from train.planning.plan import BaseFacts, DeviceKind, Plan
from train.recipe import Recipe, RecipeError
from train.rundir import Json, RunDir, brief, parse_event, read_json

SAMPLES = 3
BEGINS = "data"  # the event with which every start begins
ENDS = ("completed", "stopped", "pruned")
Held = TypeVar("Held")


@dataclass(frozen=True)
class Start:
    """One process at work on a run. `came_to` is the last step that it recorded; `lost` of its steps were made again by
    the next start, which went on from an earlier checkpoint. `outcome` is empty where the process did not say one.
    Seconds are process seconds of the run, of the steps that count."""

    from_step: int
    came_to: int
    lost: int
    checkpoints: int
    outcome: str
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """What one run left behind. `planned` is None where the base model is not there to plan with; `score` is a trial's,
    `scores` and `base_scores` are those of a final run by part of the prompts, empty where there are none; `agreement`
    is how its merged model compares, None where that was not looked at."""

    recipe: Recipe
    result: Json | None
    events: Sequence[Json]
    planned: Plan | None
    facts: BaseFacts | None
    score: Score | None
    scores: Mapping[str, Score]
    base_scores: Mapping[str, Score]
    agreement: Agreement | None
    clock_s: float | None
    samples: Sequence[Json]
    decisions: Sequence[Decision]

    @cached_property
    def steps(self) -> dict[int, Json]:
        """The event of each step; of one that was made again, the last."""
        return {e["step"]: e for e in self.events if e.get("event") == "step"}

    @cached_property
    def rungs(self) -> list[Json]:
        """The event of each measured rung, in rising order."""
        return sorted((e for e in self.events if e.get("event") == "rung"), key=lambda e: float(e["fraction"]))

    @cached_property
    def horizon(self) -> int:
        """The steps of the whole run: the recipe's, unless it was decided on the way."""
        return self.decisions[-1].steps if self.decisions else self.recipe.steps

    @cached_property
    def starts(self) -> list[Start]:
        """Every start, oldest first."""
        return list(_starts(self.events))


class Problems(list[str]):
    """What could not be read, in words."""

    def tolerate(self, what: str, read: Callable[[], Held], otherwise: Held) -> Held:
        """What `read` returns, or `otherwise`, with a note, where the file is not what this version writes."""
        try:
            return read()
        except (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            self.append(f"{what} is not what this version writes ({brief(error)})")
            return otherwise


def read_run(run: RunDir, device: DeviceKind | None, problems: Problems) -> RunRecord | None:
    """The run in that folder; None where there is no recipe, or one that this version cannot read."""
    if not run.recipe_path.exists():
        return None
    name = "/".join(run.path.absolute().parts[-2:])
    recipe = problems.tolerate(f"{name}/recipe.json", run.recipe, None)
    if recipe is None:
        return None
    result = problems.tolerate(f"{name}/result.json", lambda: read_json(run.result), None)
    facts = problems.tolerate("the base model", lambda: _facts(recipe), None)
    return RunRecord(
        recipe=recipe,
        result=result,
        events=problems.tolerate(f"{name}/events.jsonl", lambda: list(_events(run)), []),
        planned=problems.tolerate("the plan", lambda: _planned(recipe, facts, device), None),
        facts=facts,
        score=score_in(result, name, problems),
        scores=_scores(result, "scores", name, problems),
        base_scores=_scores(result, "base_scores", name, problems),
        agreement=problems.tolerate(f"merged in {name}/result.json", lambda: _agreement(result), None),
        clock_s=problems.tolerate(f"{name}/clock.json", lambda: _clock(run), None),
        samples=problems.tolerate(f"{name}/samples.jsonl", lambda: _samples(run), []),
        decisions=problems.tolerate(f"{name}/{FILE}", lambda: _decisions(run, recipe), []),
    )


def _events(run: RunDir) -> Iterator[Json]:
    """Those that say which event they are, each with the numbers that this version writes."""
    for event in run.read_events():
        if event.get("event") == "step":
            assert {"step", "loss"} <= event.keys(), f"a step has {sorted(event)}"
        if event.get("event") == "rung":
            assert {"step", "fraction", "bits_per_byte"} <= event.keys(), f"a rung has {sorted(event)}"
        yield event


def _facts(recipe: Recipe) -> BaseFacts | None:
    try:
        return plan.inspect_base(recipe.base.model, recipe.base.revision)
    except RecipeError:
        return None  # it has been moved, or was never here: no fault of the records


def _planned(recipe: Recipe, facts: BaseFacts | None, device: DeviceKind | None) -> Plan | None:
    if facts is None or device is None:
        return None
    try:
        return plan.plan(recipe, facts, device)
    except RecipeError:
        return None


def _scores(result: Json | None, key: str, name: str, problems: Problems) -> Mapping[str, Score]:
    held = (result or {}).get(key) or {}
    return problems.tolerate(
        f"{key} in {name}/result.json", lambda: {part: _score(dumped) for part, dumped in held.items()}, {}
    )


def score_in(result: Json | None, name: str, problems: Problems) -> Score | None:
    """The score that a trial's result holds, if it does."""
    held = (result or {}).get("score")
    return problems.tolerate(f"score in {name}/result.json", lambda: _score(held) if held else None, None)


def _score(dumped: Json) -> Score:
    return Score.model_validate(dumped, strict=False)


def _agreement(result: Json | None) -> Agreement | None:
    held = ((result or {}).get("merged") or {}).get("agreement")
    return Agreement.model_validate_json(json.dumps(held)) if held else None


def _clock(run: RunDir) -> float | None:
    held = read_json(run.clock)
    return None if held is None else float(held["spent_s"])


def _decisions(run: RunDir, recipe: Recipe) -> list[Decision]:
    """Those about the end that hold; none of a run that goes as far as its recipe says."""
    try:
        return holding(run.path / FILE, recipe)
    except RecipeError as error:
        raise ValueError(str(error)) from None


def _samples(run: RunDir) -> list[Json]:
    if not run.samples.exists():
        return []
    with open(run.samples, "rb") as file:
        lines = [line for line, _ in zip(file, range(SAMPLES), strict=False)]
    return [sample for line in lines if (sample := parse_event(line)) is not None]


def _starts(events: Sequence[Json]) -> Iterator[Start]:
    begins = [number for number, event in enumerate(events) if event.get("event") == BEGINS]
    begins = begins or ([0] if events else [])  # of a run that was made before this was recorded
    parts = [events[first:last] for first, last in pairwise([*begins, len(events)])]
    froms = [next((int(e["step"]) for e in part if e.get("event") == "resumed"), 0) for part in parts]
    for number, part in enumerate(parts):
        steps = [e for e in part if e.get("event") == "step"]
        came_to = steps[-1]["step"] if steps else froms[number]
        kept = min(came_to, froms[number + 1]) if number + 1 < len(parts) else came_to
        outcome = next((str(e["event"]) for e in part if e.get("event") in ENDS), "")
        checkpoints = sum(e.get("event") == "checkpoint" for e in part)
        timed = [e["seconds"] for e in part if "seconds" in e and e.get("step", 0) <= kept]
        yield Start(froms[number], came_to, came_to - kept, checkpoints, outcome, max(timed, default=0.0))
