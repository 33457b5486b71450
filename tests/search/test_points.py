"""Recipes as points: there and back again, and distances that make sense."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search.parameters import Choice, FloatRange, IntRange, Parameter
from search.points import Points

SPACE: dict[str, Parameter] = {
    "dpo_beta": FloatRange(low=0.05, high=0.5, log=True),  # matters where dpo_share is above 0
    "learning_rate": FloatRange(low=1e-4, high=1e-2, log=True),
    "rank": Choice(choices=(2, 8, 4)),
    "targets": Choice(choices=("all-linear", "attention", "mlp")),
    "rows": IntRange(low=200, high=2000, step=200),
    "dpo_share": Choice(choices=(0.0, 0.25)),
}
POINTS = Points(SPACE, {})
SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_every_point_is_a_recipe_of_the_space(seed: int) -> None:
    params = POINTS.params(POINTS.draw(1, np.random.default_rng(seed))[0])
    assert all(SPACE[name].contains(value) for name, value in params.items())
    assert ("dpo_beta" in params) == (params["dpo_share"] > 0)
    assert set(params) | {"dpo_beta"} == set(SPACE)


@given(SEEDS)
def test_a_recipe_is_found_at_its_own_place(seed: int) -> None:
    params = POINTS.params(POINTS.draw(1, np.random.default_rng(seed))[0])
    again = POINTS.params(POINTS.places(params))
    assert {k: v for k, v in again.items() if not isinstance(v, float)} == {
        k: v for k, v in params.items() if not isinstance(v, float)
    }
    assert all(np.isclose(again[k], v) for k, v in params.items() if isinstance(v, float))


@given(SEEDS)
def test_neighbours_are_nearer_than_strangers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place = POINTS.draw(1, rng)[0]

    def distance(others: np.ndarray) -> float:
        return float(np.linalg.norm(POINTS.coordinates(others) - POINTS.coordinates(place[None]), axis=1).mean())

    assert distance(POINTS.near(place, 200, rng)) < distance(POINTS.draw(200, rng))


def test_what_does_not_matter_makes_no_distance() -> None:
    without = {"learning_rate": 1e-3, "rank": 8, "targets": "mlp", "rows": 400, "dpo_share": 0.0}
    places = np.array([POINTS.places({**without, "dpo_beta": beta}) for beta in (0.05, 0.5)])
    first, second = POINTS.coordinates(places)
    assert (first == second).all()


def test_choices_of_numbers_are_as_far_apart_as_their_ranks() -> None:
    low, middle, high = (POINTS.coordinates(POINTS.places({"rank": rank})[None])[0] for rank in (2, 4, 8))
    assert np.isclose(np.linalg.norm(high - low), 2 * np.linalg.norm(middle - low))


def test_a_condition_on_what_is_fixed() -> None:
    space = {"dpo_beta": SPACE["dpo_beta"]}
    assert Points(space, {"dpo_share": 0.0}).params(np.array([0.5])) == {}
    assert list(Points(space, {"dpo_share": 0.5}).params(np.array([0.5]))) == ["dpo_beta"]
