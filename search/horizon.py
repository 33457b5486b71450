"""How far the final run goes: the measured speed times the hours that it has, and no more epochs than the data bear.
And with which learning rate: a longer run wants a lower one than the trials that were short.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from search.errors import SearchError
from search.sections import FinalSection
from train.hours import MEANT
from train.recipe import Recipe
from train.rundir import Json, RunDir, read_json

EXPONENT = 0.15  # the best learning rate ~ steps ** -EXPONENT; cautious, no fit: docs/search-choices.md says why
LARGEST = 2.0  # what a learning rate is divided by at most: no further than was measured, or than a guess should reach
FASTER = 4.0  # times the measured speed, for which data are at hand where the run is made on a faster machine
LEAST_STEPS = 10  # that the hours have to hold, or nothing could be learned


@dataclass(frozen=True)
class Horizon:
    """How many examples the final run is to consume, and why so many; how many at most, whatever its own pace says; and
    the hours below which it is not worth a start."""

    examples: int
    longest: int
    least_hours: float
    why: str


def stretch(recipe: Recipe, rows: Mapping[str, int], final: FinalSection, rate: float, load_s: float) -> Horizon:
    """The final run's horizon: what the time holds, or what the data bear; in whole batches, and never less than the
    trial's own. That is where the run begins: it measures its pace, and ends where its hours do or its data.

    `rows` are those of each source; `rate` (examples a second) and `load_s` (to load model and data) were measured.
    Raises SearchError where the hours hold no more than a few steps.
    """
    least_hours = (load_s + LEAST_STEPS * recipe.batch_size / rate) / (3600 * MEANT)
    if final.hours < least_hours:
        raise SearchError(
            f"hours = {final.hours:g} in [final] of study.toml are too few: loading takes {load_s:.0f} s and "
            f"{LEAST_STEPS} steps {LEAST_STEPS * recipe.batch_size / rate:.0f} s; give it {least_hours:.2g} at least"
        )
    by_time, by_data = (3600 * MEANT * final.hours - load_s) * rate, final.max_epochs * epoch(recipe, rows)
    wanted = min(by_time, by_data)
    examples = max(recipe.examples, _whole(recipe, wanted))
    limit = "the time" if by_time <= by_data else "the data"
    if wanted < recipe.examples:
        limit = "the trial's own horizon, which is more"
    why = (
        f"{final.hours:g} hours, {MEANT:.2%} of them planned, less {load_s:.0f} s of loading, at "
        f"{rate:.4g} examples a second hold {by_time:,.0f}; {final.max_epochs:g} epochs are "
        f"{by_data:,.0f}; decided by {limit}, in whole batches of {recipe.batch_size}"
    )
    longest = max(examples, _whole(recipe, min(FASTER * by_time, by_data)))
    return Horizon(examples, longest, float(f"{least_hours:.3g}"), why)


def _whole(recipe: Recipe, examples: float) -> int:
    return math.floor(examples / recipe.batch_size) * recipe.batch_size


@dataclass(frozen=True)
class Correction:
    """A learning rate of the trial, what it becomes in a final run that is longer, and why."""

    before: float
    after: float
    why: str


def corrections(recipe: Recipe, examples: int, final: FinalSection) -> dict[str, Correction]:
    """The learning rates that a final run of `examples` changes, by the name of their field; those of the stages that
    the recipe has. Empty where [final] turns it off, and where the run is no longer than the trial."""
    steps = max(1, examples // recipe.batch_size)
    divisor = divided_by(steps / recipe.steps)
    if not final.correct_learning_rate or divisor == 1.0:
        return {}
    bound = f", at most {LARGEST:g}" if divisor == LARGEST else ""
    why = (
        f"corrected for the horizon: {steps:,} steps instead of {recipe.steps:,} want a lower one, by "
        f"({steps / recipe.steps:.3g}) ** {EXPONENT:g}{bound}"
    )
    rates = {"learning_rate": recipe.learning_rate}
    if recipe.dpo_steps:
        rates["dpo_learning_rate"] = recipe.dpo_learning_rate
    return {name: Correction(rate, float(f"{rate / divisor:.4g}"), why) for name, rate in rates.items()}


def divided_by(ratio: float) -> float:
    """What a learning rate is divided by in a run of `ratio` times the trial's steps: 1 to LARGEST."""
    return min(LARGEST, math.pow(max(1.0, ratio), EXPONENT))


def epoch(recipe: Recipe, rows: Mapping[str, int]) -> float:
    """Examples of both stages until the source that is through first is through once."""
    shares = {"sft": 1.0 - recipe.dpo_share, "preference": recipe.dpo_share}
    lengths = []
    for use, share in shares.items():
        sources = [source for source in recipe.sources if source.use == use and source.weight > 0]
        total = math.fsum(source.weight for source in sources)
        for source in sources if share > 0 else []:
            part = source.weight / total
            pool = max(1, rows[source.name] - _held_out(recipe, source.name, rows[source.name]))
            if use == "sft" and recipe.rows is not None:
                pool = min(pool, max(1, round(recipe.rows * part)))
            lengths.append(pool / (part * share))
    return min(lengths)


def _held_out(recipe: Recipe, name: str, rows: int) -> int:
    """Rows of a source that the probe takes at most: it takes from its sources in turn, and never more than half."""
    names = recipe.probe.sources or tuple(s.name for s in recipe.sources if s.use == "sft")
    return min(math.ceil(recipe.probe.rows / len(names)), rows // 2) if name in names else 0


def examples_per_second(run: RunDir) -> float:
    """What a run achieved, over all its attempts, with the checkpoints and probes between its steps."""
    steps = {event["step"]: event["seconds"] for event in run.read_events() if _is_step(event)}
    first, last = min(steps, default=0), max(steps, default=0)
    if last == 0:
        raise SearchError(f"{run.events} holds no training step any more; put the file back")
    size = run.recipe().batch_size
    if first == last:
        return float(size * last / steps[last])
    rate: float = size * (last - first) / max(steps[last] - steps[first], 1e-9)
    return rate


def _is_step(event: Json) -> bool:
    return event.get("event") == "step" and "step" in event and "seconds" in event


def load_seconds(*runs: RunDir) -> float:
    """The longest that any of these runs took to load the model, and its data."""
    seconds = [(read_json(run.result) or {}).get("seconds") or {} for run in runs]
    return sum(max((s.get(phase, 0.0) for s in seconds), default=0.0) for phase in ("load", "data"))
