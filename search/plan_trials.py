"""What the trials of a study cost, how many of them fit, and which parts of its space the memory rules out. Pure."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import forecast, space
from search.affordable import Prices
from search.config import StudyConfig
from search.cost import Estimate
from search.parameters import IntRange, Value
from train.recipe import Recipe

SAMPLED = 200  # recipes that stand for all that a search may suggest
MOST_PAIRS = 12  # told, those that are missed by the most
Spot = Mapping[str, Value]


@dataclass(frozen=True)
class RuledOut:
    """Values that fit in no recipe of the space: whatever the others are, at least `needs_bytes` are needed."""

    what: str
    needs_bytes: int


@dataclass(frozen=True)
class TrialCosts:
    """Seconds of a trial: the cheapest, the median and the dearest of those that fit, and how many trials that makes.

    `fitting` of `sampled` recipes fit the memory; `learned_from` trials of this study corrected the plan.
    `expected` is their mean. `kept_s` of the budget are kept for the final race, none where what it takes is not
    `race_known`, for want of the prompts. `tonight` is None where the study has no time of day to stop at. `refusal`
    says why not even one trial could start.
    """

    cheapest: Estimate
    typical: Estimate
    dearest: Estimate
    fitting: int
    sampled: int
    learned_from: int
    expected: forecast.Typical
    kept_s: float
    race_known: bool
    in_budget: forecast.Count
    tonight: forecast.Count | None
    tonight_s: float | None
    refusal: str


class _Drawn:
    """Random values where space.suggest asks Optuna's trials for the sampler's."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of them."""
        return self._random.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number."""
        return round(self._between(low, high, log)) if log else self._random.randrange(low, high + 1, step)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number."""
        return (
            low + step * self._random.randint(0, round((high - low) / step)) if step else self._between(low, high, log)
        )

    def _between(self, low: float, high: float, log: bool) -> float:
        share = self._random.random()
        return float(low * (high / low) ** share) if log else low + share * (high - low)


def sampled(config: StudyConfig, count: int = SAMPLED) -> list[dict[str, Value]]:
    """Parameters of random recipes of the space, the same for the same study."""
    drawn: Any = _Drawn(config.study.seed)
    return [space.suggest(drawn, config) for _ in range(count)]


def trial_costs(
    prices: Prices,
    recipes: Sequence[Recipe],
    others: Sequence[Recipe] = (),
    *,
    sampled: int,
    left_s: float,
    tonight_s: float | None = None,
    race_s: Callable[[float], float] = lambda _: 0.0,
    race_known: bool = True,
    refused: Callable[[Recipe], str] = lambda _: "",
) -> TrialCosts | None:
    """What `recipes` cost: those of `sampled` drawn ones, which stand for the space, that fit the memory; `others` fit,
    too, and may be cheaper or dearer still. None where none of the recipes fits.

    `race_s` gives the seconds that the final race needs, by those of a typical trial's answer, if it is `race_known`.
    `refused` says why not even a trial of the cheapest recipe could start.
    """
    if not recipes:
        return None
    ends = [(_whole(prices, recipe), recipe) for recipe in (*recipes, *others)]
    estimates = [estimate for estimate, _ in ends[: len(recipes)]]
    cheapest, smallest = min(ends, key=lambda each: each[0].seconds)
    expected, typical = typical_of(estimates), sorted(estimates, key=lambda each: each.seconds)[len(estimates) // 2]
    kept_s = race_s(typical.by_cause["score"] / prices.terms.asked.prompts)
    left_s = max(0.0, left_s - kept_s)
    night_s = None if tonight_s is None else min(tonight_s, left_s)
    return TrialCosts(
        cheapest=cheapest,
        typical=typical,
        dearest=max((each for each, _ in ends), key=lambda each: each.seconds),
        fitting=len(estimates),
        sampled=sampled,
        learned_from=prices.costs.count,
        expected=expected,
        kept_s=kept_s,
        race_known=race_known,
        in_budget=forecast.fitting(expected, left_s),
        tonight=None if night_s is None else forecast.fitting(expected, night_s),
        tonight_s=tonight_s,
        refusal=refused(smallest),
    )


def _whole(prices: Prices, recipe: Recipe) -> Estimate:
    return prices.costs.of(prices.terms.work(recipe))


def typical_of(estimates: Sequence[Estimate]) -> forecast.Typical:
    """What a forecast needs of a study whose trials have not ended yet."""
    seconds = [each.seconds for each in estimates]
    return forecast.Typical.planned(seconds, statistics.median(each.sd_log for each in estimates))


def ruled_out(config: StudyConfig, spots: Sequence[tuple[Spot, int]], limit_bytes: int) -> list[RuledOut]:
    """The values, then the pairs of values, of which no combination fits. `spots` have the bytes of each combination
    of the ends of what is searched."""
    least = _least(spots)
    out = {key: size for key, size in least.items() if size > limit_bytes}
    single = [key for key in out if len(key) == 1]
    pairs = [key for key in out if len(key) == 2 and not any((one,) in single for one in key)]
    pairs.sort(key=lambda key: -out[key])
    return [RuledOut(_named(config, key), out[key]) for key in (*single, *pairs[:MOST_PAIRS])]


Key = tuple[tuple[str, Value], ...]


def _least(spots: Sequence[tuple[Spot, int]]) -> dict[Key, int]:
    """The fewest bytes of any combination with each value, and with each pair of values."""
    least: dict[Key, int] = {}
    for spot, size in spots:
        for key in _keys(spot):
            least[key] = min(size, least.get(key, size))
    return least


def _keys(spot: Spot) -> Iterator[Key]:
    for one in spot.items():
        yield (one,)
    yield from itertools.combinations(spot.items(), 2)


def _named(config: StudyConfig, key: Key) -> str:
    """`rank 128 with max_length 1024`."""
    return " with ".join(f"{name} {_value(config, name, value)}" for name, value in key)


def _value(config: StudyConfig, name: str, value: Value) -> str:
    parameter = config.space[name]
    if isinstance(parameter, IntRange) and value == parameter.high != parameter.low:
        return f"{value} (its highest)"
    return f"{value:g}" if isinstance(value, float) else str(value)
