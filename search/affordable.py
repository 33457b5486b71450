"""Which trials may start: what they need, by the forecast, against what is left of the budget and of the night. Pure.

    purse = Purse(prices, recipe_of, Left(limit_s=28800.0, spent_s=28500.0, night_s=900.0), load=False)
    purse.excess({"rank": 64, ...})   # 212.0: seconds more than the budget has left; 0 or less: it may start
    purse.late(recipe)                # why it could not reach a checkpoint before the night ends, or ""

The budget has to pay for all of a trial that starts. The night only has to last to its first checkpoint, from which
the next night goes on, and never decides which recipe is next: that would differ from one night to another. A trial
that was begun goes on whatever is left: its checkpoint waits for a larger budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from search import budget
from search.cost import Costs, Estimate, Terms
from search.parameters import Parameter, Value, condition
from train.recipe import Recipe

QUICKEST = 4.0  # so many times as fast as planned may a machine be: two standard deviations of what is known of it
MARGIN_SDS = 1.0  # how many standard deviations dearer than expected a trial may get and still be paid to its end...
MOST_MARGIN = 1.25  # ...but no dearer than this: where little is known, it is no reason to start nothing
PASSES = 2  # over the parameters, in search of the values that take the fewest seconds

Params = Mapping[str, Value]


class NothingAffordable(Exception):
    """No recipe that the sampler knows of would end within the budget."""


@dataclass(frozen=True)
class Need:
    """GPU-seconds to a trial's end, and seconds to a checkpoint from which it can go on; with those kept for saving."""

    whole_s: float
    checkpoint_s: float

    def after(self, seconds: float) -> Need:
        """The same, once something else has been done that takes so long."""
        return Need(self.whole_s + seconds, self.checkpoint_s + seconds)


@dataclass(frozen=True)
class Prices:
    """What trials need. While nothing was measured on the machine, it counts as `quickest` times as fast as planned,
    so that nothing is refused which could do: infinitely fast where nothing is known of it."""

    terms: Terms
    costs: Costs
    quickest: float

    @classmethod
    def of(cls, terms: Terms, costs: Costs, *, known: bool = True, threads: int = 1) -> Self:
        """`known`: the plan knows the machine's speed. It reckons with one thread, where that matters."""
        return cls(terms, costs, QUICKEST * threads if known else math.inf)

    @property
    def measured(self) -> bool:
        """Whether a trial of the study has taught something."""
        return self.costs.count > 0

    @property
    def likely(self) -> Prices:
        """What trials will need as far as the plan goes, with the margin, without hope for a faster machine."""
        return replace(self, quickest=1 / MOST_MARGIN)

    def seconds(self, recipe: Recipe) -> float:
        """Of a trial of this recipe by a loaded worker, as expected."""
        return self.costs.of(self.terms.work(recipe)).seconds

    def need(self, recipe: Recipe, *, load: bool) -> Need:
        """Of a trial of this recipe; `load`: the base model has to be loaded first."""
        estimate = self.costs.of(self.terms.work(recipe, load=load))
        parts, factor = estimate.by_cause, self._factor(estimate)
        step_s = parts["train"] / recipe.steps
        saved_s = parts["load"] + parts["data"] + parts["overhead"] + 2 * step_s + parts["save"]
        kept_s = budget.reserve_s(factor * step_s, factor * parts["save"])
        return Need(factor * estimate.seconds + kept_s, factor * saved_s + kept_s)

    def first(self, recipe: Recipe, *, scored: bool) -> Need:
        """Of a study's first trial and, unless it is `scored`, of the base model's score before that."""
        need = self.need(recipe, load=True)
        if scored:
            return need
        estimate = self.costs.of(self.terms.work(recipe))
        base_s = sum(estimate.by_cause[cause] for cause in ("probe", "score", "overhead"))
        return need.after(self._factor(estimate) * base_s)

    def _factor(self, estimate: Estimate) -> float:
        if not self.measured:
            return 1 / self.quickest
        return min(MOST_MARGIN, math.exp(MARGIN_SDS * estimate.sd_log))


@dataclass(frozen=True)
class Left:
    """What a study may spend in all, what it has spent, the seconds of its night that are left (None: no end), and what
    of the budget is kept for the final race."""

    limit_s: float
    spent_s: float = 0.0
    night_s: float | None = None
    kept_s: float = 0.0

    @property
    def seconds(self) -> float:
        """GPU-seconds of the budget that are left for trials."""
        return budget.unpaid_s(max(0.0, self.limit_s - self.kept_s), self.spent_s)

    @property
    def kept(self) -> str:
        """What else of it is left, as a part of a sentence."""
        return f" beside {self.kept_s:.0f} s for the final race" if self.kept_s else ""


@dataclass
class Purse:
    """What a study may start with what it has left now. `load`: a worker has to be started, which loads the base model.

    `least_s` is what the shortest trial needs among those that were asked about, `begun_s` in a night that begins with
    it, and so has to load the base model.
    """

    prices: Prices
    recipe: Callable[[Params], Recipe]
    left: Left
    load: bool
    least_s: float = field(default=math.inf, init=False)
    begun_s: float = field(default=math.inf, init=False)

    def excess(self, params: Params) -> float:
        """How many seconds more a trial with these parameters needs than the budget has left; at most 0: it fits."""
        recipe = self.recipe(params)
        need = self.prices.need(recipe, load=self.load)
        self.least_s = min(self.least_s, need.whole_s)
        self.begun_s = min(self.begun_s, self.prices.need(recipe, load=True).whole_s)
        return need.whole_s - self.left.seconds

    def ending(self) -> str:
        """Why the night is over, once no recipe was found that fits; and with how much another one would go on, after
        a final race that takes all that is kept for it, beside what the next one needs."""
        least = "" if self.prices.measured else " at the very least"
        more = _hours(self.left.spent_s + 2 * self.left.kept_s + self.begun_s)
        return (
            f"the budget of {budget.hours(self.left.limit_s)} GPU-hours has {self.left.seconds:.0f} s left"
            f"{self.left.kept}, and the shortest trial needs {math.ceil(self.least_s)} s{least}; with {more} GPU-hours "
            "it goes on"
        )

    def late(self, recipe: Recipe) -> str:
        """Why a trial is left for the next night, or an empty string."""
        need_s = self.prices.need(recipe, load=self.load).checkpoint_s
        if self.left.night_s is None or need_s <= self.left.night_s:
            return ""
        return (
            f"the deadline is in {max(0.0, self.left.night_s):.0f} s, and the next trial needs {math.ceil(need_s)} s "
            "to its first checkpoint"
        )


def smallest(
    space: Mapping[str, Parameter],
    fixed: Params,
    params: Params,
    seconds: Callable[[Params], float],
    keep: Params | None = None,
) -> dict[str, Value]:
    """The recipe of the space, found from `params` on, that takes the fewest `seconds`: parameter by parameter, each at
    the end of its range, or the choice, that takes fewer. `fixed` is the rest of the recipe; what `keep` names stays.
    """
    best = dict(params)
    least = seconds(best)
    for _ in range(PASSES):
        for name, parameter in space.items():
            if name not in best or name in (keep or {}):
                continue
            for value in parameter.ends:
                other = _mattering({**best, name: value}, fixed)
                if (took := seconds(other)) < least:
                    best, least = other, took
    return best


def _mattering(params: Params, fixed: Params) -> dict[str, Value]:
    """Without what does not matter to such a recipe."""
    needed = {name: condition(name) for name in params}
    return {
        name: value
        for name, value in params.items()
        if (on := needed[name]) is None or on.holds(params.get(on.on, fixed.get(on.on)))
    }


def refusal(
    prices: Prices,
    recipe: Recipe,
    left: Left,
    *,
    scored: bool,
    study: str,
) -> str:
    """Why a study cannot begin with what is left, the minimum, and the next command; or an empty string.

    `recipe` is the cheapest of its space; `scored`: the base model's score is there. `study` is the study file, as a
    shell reads it. Where nothing is known of the machine, nothing is refused.
    """
    night_s = left.night_s
    if night_s is not None and night_s <= 0:
        return f"the deadline has passed {-night_s:.0f} s ago; give a later one with --until"
    if math.isinf(prices.quickest) and not prices.measured:
        return ""
    least, likely = prices.first(recipe, scored=scored), prices.likely.first(recipe, scored=scored)
    what = "the cheapest trial of this space" if scored else "scoring the base model and the cheapest trial"
    if least.whole_s > left.seconds:
        used = f", {budget.hours(left.spent_s)} of them used," if left.spent_s > 0 else ""
        gone_s = left.spent_s + left.kept_s
        return (
            f"the budget of {budget.hours(left.limit_s)} GPU-hours{used} leaves {left.seconds:.0f} s{left.kept}, and "
            f"{what} may take {_seconds(prices, least.whole_s, likely.whole_s)}. The minimum is "
            f"{_hours(gone_s + least.whole_s)} GPU-hours: raise budget_hours in [study], or run "
            f"`nightshift start {study} --budget {_hours(gone_s + likely.whole_s)}`"
        )
    if night_s is not None and least.checkpoint_s > night_s:
        return (
            f"the night ends in {night_s:.0f} s, and {what} may take "
            f"{_seconds(prices, least.checkpoint_s, likely.checkpoint_s)} to a first checkpoint. The minimum is "
            f"{math.ceil(least.checkpoint_s / 60)} min: set a later until in [study], or run `nightshift start {study} "
            f"--until HH:MM` with a time at least {math.ceil(likely.checkpoint_s / 60)} min away"
        )
    return ""


def _seconds(prices: Prices, least_s: float, likely_s: float) -> str:
    if prices.measured:
        return f"{math.ceil(least_s)} s"
    return (
        f"{math.ceil(likely_s)} s, or {math.ceil(least_s)} s on a machine {prices.quickest:g} times as fast as planned"
    )


def _hours(seconds: float) -> str:
    """No less than that, in thousandths."""
    return f"{math.ceil(1000 * seconds / 3600 - 1e-9) / 1000:g}"
