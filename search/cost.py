"""What a trial will cost before it starts: GPU-seconds by cause, first by the plan, then as a study's trials show.

The plan (train.planning) says how the seconds of recipes differ; how long they are on this machine, and what the plan
does not know (short rows, kernels, caches), is learned: for each cause, the logarithm of measured over planned seconds
is a linear function of a few features of the recipe, shrunk towards none (search.shrinkage).

    terms = Terms(facts, speed, rungs=(0.25, 0.5, 1.0), asked=answers)
    costs = Costs.learn([Observation(terms.work(recipe), {"train": 310.0, "probe": 9.0, "score": 88.0})])
    costs.of(terms.work(another))                 # Estimate(seconds=..., sd_log=..., by_cause={...})
    costs.of(terms.work(another, from_=0.25))     # what is left of one that has a checkpoint there

Pure: no clock, no file, no Optuna, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from search import shrinkage
from storage.attempts import Attempt
from train.planning import plan as planning
from train.planning.flops import passes
from train.recipe import Recipe

# What a feature of a recipe may change in the logarithm of its seconds, beyond what the plan says: standard deviations
# of the priors. The first is the machine's own speed, of which the plan knows little.
TRAINING = {
    "machine": 0.7,
    "dpo": 0.3,  # the share of the work that is DPO's
    "batch": 0.05,
    "length": 0.2,
    "modules": 0.1,
    "trainable": 0.03,
    "dropout": 0.1,
    "dora": 0.3,
    "passes": 0.3,
}
FIXED = {"machine": 0.7, "modules": 0.2}  # of probes and scores
ONCE = {"machine": 1.0}
PRIORS: Mapping[str, Mapping[str, float]] = {
    "load": ONCE,
    "data": ONCE,
    "train": TRAINING,
    "probe": FIXED,
    "save": ONCE,
    "score": FIXED,
    "overhead": ONCE,
}
CAUSES = tuple(PRIORS)
LOST = ("lost", "running")  # causes of seconds that nobody accounts for
NOISE = {"train": 0.1, "probe": 0.1, "score": 0.2}  # assumed of the logarithm; others: 0.3
MOST = 200  # observations that are learned from, the newest
LEAST_S = 1e-3  # shorter seconds are as good as none

# A thread of a processor, for studies without a card: what the tiny model of the rehearsal reaches.
THREAD = planning.Speed("a thread", 120e9, 20e9, 5e-6)
DISK_BYTES = 400e6  # a second, of reading a base model and of writing a checkpoint, fsync included
PROBE_SHARE = 0.45  # of the training step of a row: forward alone, but nothing packed
USUAL_LENGTH = 64  # tokens of a packed row, were max_length as short...
LENGTH_POWER = 0.3  # a longer one lets in longer rows: 120 tokens of 512, 150 of 1,024
DPO_TIMES = 4.0  # a DPO step, to a supervised one of as many rows: two answers, a reference, and no packing
STEP_S = 0.008  # of every step, whatever its size: the optimizer's kernels, events, the loop
SCORE_SHARE = 0.4  # of the longest answers' seconds: most end early, and some as soon as they are decided
OVERHEAD_S = 0.5  # between two trials
LOAD_S = 3.0  # of imports, beside reading the weights
SAVE_S = 0.1
DATA_S = 0.05  # once rows and tokens are in the cache


@dataclass(frozen=True)
class Work:
    """What of a trial, or of a stretch of it, decides its seconds: those by plan, and the features they vary by."""

    planned: Mapping[str, float]
    features: Mapping[str, float]

    def row(self, cause: str) -> list[float]:
        """The features by which this cause is corrected, in the order of PRIORS."""
        return [self.features[name] for name in PRIORS[cause]]


@dataclass(frozen=True)
class Terms:
    """What all trials of a study have in common: base model, machine, rungs, and what a trial is asked at the end."""

    facts: planning.BaseFacts
    speed: planning.Speed | None  # None: a processor, or a card that is not known
    rungs: Sequence[float]
    asked: planning.Answers

    def work(
        self,
        recipe: Recipe,
        up_to: float = 1.0,
        from_: float = 0.0,
        *,
        prompts: int | None = None,
        load: bool = False,
    ) -> Work:
        """The work of a trial between two fractions of its horizon.

        `prompts` are those that it is asked once the horizon is reached: all of the subset where None. `load`: the
        base model has to be loaded first.
        """
        speed = self.speed or THREAD
        step = planning.step_seconds(recipe, self.facts, speed)
        parts = step.matrix + step.elements + step.attention + step.dequantization
        sft_s = (step.step if self.speed else parts + step.dispatch) * _filled(recipe, self.facts) + STEP_S
        sft, dpo = _steps(recipe, from_, up_to)
        train = sft_s * (sft + DPO_TIMES * dpo)
        row_s = sft_s / recipe.batch_size
        probes = sum(from_ < rung <= up_to for rung in self.rungs)
        asked = 0 if up_to < 1.0 else self.asked.prompts if prompts is None else prompts
        answering = planning.scoring_seconds(recipe, self.facts, self.asked, speed).total / self.asked.prompts
        made = planning.plan(recipe, self.facts, "cpu")
        planned = {
            "load": LOAD_S + self.facts.parameters * 2 / DISK_BYTES if load else 0.0,
            "data": DATA_S,
            "train": train,
            "probe": probes * recipe.probe.rows * row_s * PROBE_SHARE,
            "save": SAVE_S + made.disk_bytes / DISK_BYTES,
            "score": asked * answering * SCORE_SHARE,
            "overhead": OVERHEAD_S,
        }
        share = DPO_TIMES * dpo * sft_s / train if train else 0.0
        return Work(planned, {**_features(recipe, self.facts, made), "dpo": share})


def _filled(recipe: Recipe, facts: planning.BaseFacts) -> float:
    """What packing makes of a step with rows of full length."""
    share = min(recipe.max_length, facts.context) / USUAL_LENGTH
    return float(min(1.0, share ** (LENGTH_POWER - 1))) if recipe.packing else 1.0


def _steps(recipe: Recipe, from_: float, up_to: float) -> tuple[int, int]:
    """The supervised and the DPO steps between two fractions of the horizon."""
    first, last = (recipe.step_at(fraction) if fraction > 0 else 0 for fraction in (from_, up_to))
    sft = min(last, recipe.sft_steps) - min(first, recipe.sft_steps)
    return sft, last - first - sft


def _features(recipe: Recipe, facts: planning.BaseFacts, made: planning.Plan) -> dict[str, float]:
    """Around 0 for a usual recipe, and of about 1 for one that differs much."""
    return {
        "machine": 1.0,
        "batch": math.log2(recipe.batch_size / 16),
        "length": math.log(min(recipe.max_length, facts.context) / USUAL_LENGTH),
        "modules": math.log(len({layer.module for layer in made.layers}) / 7),
        "trainable": math.log(made.trainable_parameters / facts.parameters / 0.01),
        "dropout": float(recipe.dropout > 0),
        "dora": float(recipe.use_dora),
        "passes": passes(recipe, facts) - 2.0,
    }


@dataclass(frozen=True)
class Observation:
    """What one trial's work really took, by cause; causes that were not measured are left out."""

    work: Work
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """GPU-seconds expected (the median), and the standard deviation of their logarithm."""

    seconds: float
    sd_log: float
    by_cause: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Costs:
    """The model of a study's costs: one correction of the plan for each cause. `count` is how many trials taught it."""

    corrections: Mapping[str, shrinkage.Correction]
    count: int = 0

    @classmethod
    def learn(cls, observations: Sequence[Observation] = ()) -> Self:
        """The model after these trials, oldest first; before the first, the plan's own."""
        newest = observations[-MOST:]
        return cls({cause: _correction(cause, newest) for cause in CAUSES}, len(newest))

    def of(self, work: Work) -> Estimate:
        """What this work will cost."""
        by_cause, variance = {}, 0.0
        for cause, planned_s in work.planned.items():
            log, sd = self.corrections[cause].at(work.row(cause))
            by_cause[cause] = planned_s * math.exp(min(log, 50.0))
            variance += (by_cause[cause] * sd) ** 2
        seconds = sum(by_cause.values())
        return Estimate(seconds, math.sqrt(variance) / seconds if seconds else 0.0, by_cause)


def _correction(cause: str, observations: Iterable[Observation]) -> shrinkage.Correction:
    known = [
        (each.work.row(cause), math.log(each.seconds[cause] / each.work.planned[cause]))
        for each in observations
        if each.seconds.get(cause, 0.0) > LEAST_S and each.work.planned[cause] > 0
    ]
    rows, logs = [row for row, _ in known], [log for _, log in known]
    return shrinkage.learn(rows, logs, list(PRIORS[cause].values()), NOISE.get(cause, 0.3))


def spent(attempts: Sequence[Attempt]) -> dict[str, float] | None:
    """A trial's seconds by cause, over all its attempts; None while one is open, or where one was lost by a kill."""
    if not attempts or any(each.ended_at is None or set(each.costs) & set(LOST) for each in attempts):
        return None
    return {cause: sum(each.costs.get(cause, 0.0) for each in attempts) for cause in CAUSES}
