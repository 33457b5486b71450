"""Searches replayed on published verdicts: trials ranked by few prompts, and raced against the incumbent.

The verdicts ($NIGHTSHIFT_SHARED/data/ifeval_matrix_qlora_run_a.jsonl) are those of 15 checkpoints of one QLoRA run of
Mistral-7B on IFEval's 541 prompts. Each split deals the prompts at random into a search half of 270 and a sealed half
of 271, and the checkpoints into a random order of trials. What decides is the product's own: objectives.subset.take,
objectives.race.order, Race.behind and estimate. It sees nothing of the sealed half, nor an answer to a prompt that a
trial was not asked.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from statistics import StatisticsError, correlation, fmean

from scipy.special import beta, betaincc
from scipy.stats import rankdata

from objectives.race import Asked, Race, Trial, estimate, order
from objectives.score import Prompt
from objectives.subset import take

CHARACTERS = 4.3  # of a token
SEEN, FEW = 4, 64  # checkpoints seen before, and prompts asked, where trials are ranked
WHOLE = 270  # the search half

Behind = Callable[[Race, Sequence[int]], bool]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of one checkpoint by the prompt's key; `strict` and `loose` hold one for each instruction."""

    strict: dict[int, tuple[bool, ...]]
    loose: dict[int, tuple[bool, ...]]
    tokens: dict[int, int]

    def strictly(self, keys: Sequence[int]) -> float:
        """Prompt-level strict accuracy on these prompts."""
        return fmean(all(self.strict[key]) for key in keys)

    def mean_of_four(self, keys: Sequence[int]) -> float:
        """Mean of IFEval's four metrics on these prompts."""
        metrics = []
        for kind in (self.strict, self.loose):
            metrics += [fmean(all(kind[key]) for key in keys), fmean(v for key in keys for v in kind[key])]
        return fmean(metrics)

    def asked(self, keys: Sequence[int]) -> dict[int, Asked]:
        """What `order` is told of a trial that was asked these prompts."""
        return {key: Asked(followed=all(self.strict[key]), tokens=self.tokens[key]) for key in keys}


@dataclass(frozen=True)
class Split:
    """Prompts dealt into halves, checkpoints into a random order."""

    search: tuple[Prompt, ...]
    sealed: tuple[int, ...]  # keys
    trials: tuple[Verdicts, ...]

    @cached_property
    def reference(self) -> tuple[Prompt, ...]:
        """The search half in the order of `take`: a smaller reference set is its beginning."""
        return take(self.search, WHOLE)

    @cached_property
    def targets(self) -> list[float]:
        """What each trial scores on the sealed half."""
        return [trial.mean_of_four(self.sealed) for trial in self.trials]


@dataclass(frozen=True)
class Study:
    """One replayed search: the trial picked, the prompts a trial, and, of each trial after the first, the value told,
    its accuracy on the whole reference, whether it was ended, and whether it was at least as good as the incumbent."""

    pick: Verdicts
    reference: tuple[int, ...]
    prompts: float
    told: list[float]
    plain: list[float]  # the same with the incumbent's verdict alone where a prompt was not asked
    true: list[float]
    ended: list[bool]
    as_good: list[bool]


@dataclass(frozen=True)
class Setting:
    """A reference set's size and how it is raced for."""

    subset: int
    stages: tuple[int, ...]
    error_rate: float

    def __str__(self) -> str:
        return f"{self.subset} prompts, stages {self.stages}, error rate {self.error_rate}"


def recorded() -> tuple[tuple[Prompt, ...], tuple[Verdicts, ...]] | None:
    """Prompts and checkpoints; None without data."""
    root = os.environ.get("NIGHTSHIFT_SHARED")
    data = Path(root) / "data" if root else None
    if data is None or not data.is_dir():
        return None
    with (data / "ifeval_matrix_qlora_run_a.jsonl").open(encoding="utf-8") as file:
        head, *rows = map(json.loads, file)
    with (data / "ifeval_input_data.jsonl").open(encoding="utf-8") as file:
        by_key = {row["key"]: Prompt.model_validate_json(json.dumps(row)) for row in map(json.loads, file)}
    keys = head["keys"]

    def verdicts(of_prompts: list[str]) -> dict[int, tuple[bool, ...]]:
        return {key: tuple(mark == "1" for mark in marks) for key, marks in zip(keys, of_prompts, strict=True)}

    checkpoints = tuple(
        Verdicts(
            strict=verdicts(row["strict"]),
            loose=verdicts(row["loose"]),
            tokens={key: round(count / CHARACTERS) for key, count in zip(keys, row["chars"], strict=True)},
        )
        for row in rows
    )
    return tuple(by_key[key] for key in keys), checkpoints


def splits(prompts: Sequence[Prompt], checkpoints: Sequence[Verdicts], numbers: range) -> Iterator[Split]:
    """The random splits with these numbers, always the same ones."""
    for number in numbers:
        draw = random.Random(number)
        dealt = draw.sample(prompts, len(prompts))
        trials = tuple(draw.sample(checkpoints, len(checkpoints)))
        yield Split(tuple(dealt[:WHOLE]), tuple(prompt.key for prompt in dealt[WHOLE:]), trials)


# Ranking trials by few prompts


def correlations(split: Split) -> dict[str, float]:
    """Spearman's rank correlation with the sealed half of the 11 trials that were not seen before, by how they are
    asked and what is counted."""
    seen, ranked = split.trials[:SEEN], split.trials[SEEN:]
    reference = split.reference
    keys = [prompt.key for prompt in split.search]
    varied = [key for key in keys if len({all(trial.strict[key]) for trial in seen}) > 1]
    ways = {
        "random": keys[:FEW],
        "varied": (varied + [key for key in keys if key not in varied])[:FEW],
        "all": keys,
        "ours": [prompt.key for prompt in order(reference, [trial.asked(keys) for trial in seen])[:FEW]],
    }
    target = split.targets[SEEN:]
    result = {"learning on, strict": spearman(_learning_on(reference, seen, ranked), target)}
    for way, chosen in ways.items():
        result[f"{way}, strict"] = spearman([trial.strictly(chosen) for trial in ranked], target)
        result[f"{way}, four"] = spearman([trial.mean_of_four(chosen) for trial in ranked], target)
    return result


def _learning_on(reference: Sequence[Prompt], seen: Sequence[Verdicts], ranked: Sequence[Verdicts]) -> list[float]:
    """Values told, where each trial's order also learns from what the trials before it were asked."""
    keys = [prompt.key for prompt in reference]
    best = max(seen, key=lambda trial: trial.strictly(keys))
    incumbent = _followed(best, keys)
    earlier: list[Trial] = [trial.asked(keys) for trial in seen if trial is not best]
    values = []
    for trial in ranked:
        asked = [prompt.key for prompt in order(reference, earlier)[:FEW]]
        values.append(estimate(_followed(trial, asked), incumbent, keys))
        earlier.append(trial.asked(asked))
    return values


def _followed(trial: Verdicts, keys: Sequence[int]) -> dict[int, bool]:
    return {key: all(trial.strict[key]) for key in keys}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; 0 where either is constant."""
    try:
        return correlation(list(rankdata(a)), list(rankdata(b)))
    except StatisticsError:
        return 0.0


# A search, trial after trial


def study(split: Split, setting: Setting, behind: Behind = Race.behind) -> Study:
    """The trials one after another, as the product runs them; `behind` may be another rule than the product's."""
    reference = split.reference[: setting.subset]
    keys = [prompt.key for prompt in reference]
    race = Race(stages=setting.stages, error_rate=setting.error_rate)
    incumbent = split.trials[0]
    asked_of: list[tuple[Verdicts, Trial]] = [(incumbent, incumbent.asked(keys))]
    made = Study(incumbent, tuple(keys), 0.0, [], [], [], [], [])
    for trial in split.trials[1:]:
        ordered = order(reference, [asked for whose, asked in asked_of if whose is not incumbent])
        asked, ended = _raced(race, behind, [prompt.key for prompt in ordered], trial, incumbent)
        base = _followed(incumbent, keys)
        own = _followed(trial, asked)
        made.told.append(estimate(own, base, keys))
        made.plain.append(fmean({**base, **own}.values()))
        made.true.append(trial.strictly(keys))
        made.ended.append(ended)
        made.as_good.append(made.true[-1] >= incumbent.strictly(keys))
        asked_of.append((trial, trial.asked(asked)))
        if not ended and made.told[-1] > incumbent.strictly(keys):
            incumbent = trial
    prompts = fmean(len(asked) for _, asked in asked_of)
    return Study(incumbent, tuple(keys), prompts, made.told, made.plain, made.true, made.ended, made.as_good)


def _raced(race: Race, behind: Behind, keys: list[int], trial: Verdicts, incumbent: Verdicts) -> tuple[list[int], bool]:
    """The prompts that the trial is asked, and whether it was ended."""
    differences = [all(trial.strict[key]) - all(incumbent.strict[key]) for key in keys]
    for stage in race.stages:
        if behind(race, differences[:stage]):
            return keys[:stage], True
    return keys, False


def bonferroni(race: Race, differences: Sequence[int]) -> bool:
    """The exact sign test at one look, at the error rate divided by the number of looks."""
    minus, plus = differences.count(-1), differences.count(1)
    p = sum(comb(minus + plus, more) for more in range(minus, minus + plus + 1)) / 2 ** (minus + plus)
    return minus > plus and p <= race.error_rate / len(race.stages)


def e_process(race: Race, differences: Sequence[int]) -> bool:
    """Bets on the incumbent, mixed uniformly over its chances from 1/2 to 1 where the two differ, against the fair
    coin; by Ville's inequality they seldom win as much as 1 / error rate, however often one looks."""
    minus, plus = differences.count(-1), differences.count(1)
    won = 2 ** (minus + plus + 1) * betaincc(minus + 1, plus + 1, 0.5) * beta(minus + 1, plus + 1)
    return minus > plus and bool(won >= 1 / race.error_rate)


def lost(split: Split, pick: Verdicts) -> float:
    """Points of sealed score by which the pick is below the best trial."""
    return 100 * (max(split.targets) - pick.mean_of_four(split.sealed))


def best_of(split: Split, keys: Sequence[int], four: bool = False) -> Verdicts:
    """The first of the best trials on these prompts."""
    return max(split.trials, key=lambda trial: trial.mean_of_four(keys) if four else trial.strictly(keys))
