"""What a study's own runs say of its costs: from their folders to the observations that search.cost learns from."""

from __future__ import annotations

from pathlib import Path

from search.affordable import Prices
from search.config import StudyConfig
from search.cost import MOST, Costs, Observation, Terms
from train.planning import plan as planning
from train.rundir import Json, RunDir, read_json

PROMPT_TOKENS = 64  # of a usual prompt; plans of memory reckon with longer ones
Known = dict[str, Observation]


def terms(config: StudyConfig, facts: planning.BaseFacts, speed: planning.Speed | None) -> Terms:
    """What all trials of a study have in common. A card whose speed is not known counts as the reference card."""
    asked = config.objective
    if speed is None and config.machine.device == "cuda":
        speed = planning.SPEEDS[0]
    answers = planning.Answers(asked.subset, asked.batch_size, PROMPT_TOKENS, asked.max_new_tokens)
    return Terms(facts, speed, config.study.rungs, answers)


def observations(runs: Path, of: Terms, known: Known | None = None) -> list[Observation]:
    """What the newest trials in a study's folder of runs took, oldest first.

    Those that ended never change: they are taken from `known`, by their names, and put there.
    """
    known = {} if known is None else known
    names = sorted(path.name for path in runs.glob("[0-9]*") if path.is_dir())[-MOST:]
    for name in names:
        if name not in known and (found := observation(RunDir(runs / name), of)):
            known[name] = found
    return [known[name] for name in names if name in known]


def prices(
    config: StudyConfig,
    facts: planning.BaseFacts,
    speed: planning.Speed | None,
    runs: Path | None,
    known: Known | None = None,
) -> Prices:
    """What trials of a study need, by the plan and by the runs in that folder."""
    of, machine = terms(config, facts, speed), config.machine
    costs = Costs.learn(observations(runs, of, known) if runs else ())
    on_card = machine.device == "cuda"
    return Prices.of(of, costs, known=speed is not None or not on_card, threads=1 if on_card else machine.threads)


def observation(run: RunDir, of: Terms) -> Observation | None:
    """What the last attempt at a run took, for its stretch of the horizon; None where it did not end well."""
    result = read_json(run.result)
    if result is None or result["outcome"] not in ("completed", "pruned") or not run.recipe_path.exists():
        return None
    recipe, seconds = run.recipe(), result["seconds"]
    up_to = 1.0 if result["outcome"] == "completed" else max(map(float, result.get("rungs", {})), default=0.0)
    race = result.get("race")
    work = of.work(
        recipe,
        up_to,
        _resumed(run) / recipe.steps,
        prompts=race["asked"] if race else None,
        load=seconds.get("load", 0.0) > 0,
    )
    return Observation(work, seconds)


def _resumed(run: RunDir) -> int:
    """The step that the last attempt went on from."""
    step = 0
    for event in run.read_events():
        step = _began(event, step)
    return step


def _began(event: Json, step: int) -> int:
    if event["event"] == "data":  # with which an attempt begins
        return 0
    return int(event["step"]) if event["event"] == "resumed" else step
