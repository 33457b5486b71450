"""Recipes as points, for what reckons with distances, and points at random. Imports no torch.

A recipe has one *place* for each parameter of the space, from 0 to 1: of a range, how far along it is (on its logarithm
where it has one); of choices, the middle of the part that belongs to the choice. Its *coordinates* are what distances
are taken of: choices of numbers by their rank, words by one coordinate each, and a parameter that does not matter to
the recipe in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search.parameters import Choice, Parameter, Value, condition

Array = NDArray[np.float64]
Params = dict[str, Value]

APART = 0.7  # what one word differs from another in each of their two coordinates: a distance of about 1
ABSENT = 0.5
MOVED, STEP = 0.3, 0.15  # how many parameters a neighbour differs in, on average; how far a number moves


class Points:
    """The points of one space. `fixed` is the rest of the recipe, on which a condition may hang."""

    def __init__(self, space: Mapping[str, Parameter], fixed: Mapping[str, Value]) -> None:
        # Conditions first, as a trial is asked for them.
        self.space = {name: space[name] for name in sorted(space, key=lambda name: condition(name) is not None)}
        self.fixed = fixed
        self._names = tuple(self.space)

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Places of `count` recipes at random, shape (count, parameters)."""
        return rng.random((count, len(self._names)))

    def near(self, places: Array, count: int, rng: np.random.Generator) -> Array:
        """Places of `count` neighbours of one recipe: some of its parameters changed, ranges by a little."""
        moved = rng.random((count, len(places))) < MOVED
        little = np.clip(places + STEP * rng.normal(size=moved.shape), 0.0, 1.0)
        anew = rng.random(moved.shape)
        words = np.array([isinstance(parameter, Choice) for parameter in self.space.values()])
        return np.where(moved, np.where(words, anew, little), places)

    def places(self, params: Mapping[str, Value]) -> Array:
        """The places of a recipe; 0.5 for what it does not name."""
        return np.array([_place(parameter, params.get(name)) for name, parameter in self.space.items()])

    def with_fixed(self, places: Array, fixed: Mapping[str, Value]) -> Array:
        """The places of recipes, shape (recipes, parameters), moved to where these parameters have these values."""
        given = np.array([name in fixed for name in self._names], dtype=bool)
        return np.where(given, self.places(fixed), places)

    def params(self, places: Array) -> Params:
        """The recipe at these places, without what does not matter to it."""
        found: Params = {}
        for (name, parameter), place in zip(self.space.items(), places, strict=True):
            needed = condition(name)
            if needed is None or needed.holds(found.get(needed.on, self.fixed.get(needed.on))):
                found[name] = _value(parameter, float(place))
        return found

    def coordinates(self, places: Array) -> Array:
        """The coordinates of recipes, shape (recipes, coordinates), of their places (recipes, parameters)."""
        columns: list[Array] = []
        for number, (name, parameter) in enumerate(self.space.items()):
            own = _coordinates(parameter, places[:, number])
            if condition(name) is not None:
                own = [np.where(self._matters(name, places), column, ABSENT) for column in own]
            columns += own
        return np.column_stack(columns)

    def _matters(self, name: str, places: Array) -> NDArray[np.bool_]:
        needed = condition(name)
        assert needed is not None
        if needed.on not in self.space:
            return np.full(len(places), needed.holds(self.fixed.get(needed.on)))
        parameter, column = self.space[needed.on], places[:, self._names.index(needed.on)]
        return np.array([needed.holds(value) for value in values(parameter, column)])


def amounts(parameter: Parameter, places: Array) -> Array:
    """How much of it there is at these places, from 0 to 1: of choices of numbers, by their rank."""
    return _coordinates(parameter, places)[0]


def values(parameter: Parameter, places: Array) -> list[Value]:
    """What is at these places."""
    return [_value(parameter, float(place)) for place in places]


def _place(parameter: Parameter, value: Value | None) -> float:
    if value is None:
        return ABSENT
    if isinstance(parameter, Choice):
        return (parameter.choices.index(value) + 0.5) / len(parameter.choices)
    low, high, at = float(parameter.low), float(parameter.high), float(value)
    if parameter.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else ABSENT


def _value(parameter: Parameter, place: float) -> Value:
    """What is at that place, on the range's grid where it has one."""
    if isinstance(parameter, Choice):
        return parameter.choices[_part(parameter, place)]
    low, high = parameter.low, parameter.high
    if parameter.log:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        value = low + place * (high - low)
    whole = isinstance(low, int) and isinstance(high, int)
    step = None if parameter.log else parameter.step or (1 if whole else None)
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(float(high), max(float(low), value))
    return round(value) if whole else value


def _part(parameter: Choice, place: float) -> int:
    return min(int(place * len(parameter.choices)), len(parameter.choices) - 1)


def _coordinates(parameter: Parameter, places: Array) -> list[Array]:
    if not isinstance(parameter, Choice):
        return [places]
    count = len(parameter.choices)
    parts = np.minimum((places * count).astype(int), count - 1)
    if all(isinstance(choice, (int, float)) for choice in parameter.choices):
        ranks = np.argsort(np.argsort(np.array(parameter.choices, dtype=float)))
        return [ranks[parts] / max(1, count - 1)]
    return [APART * (parts == choice) for choice in range(count)]
