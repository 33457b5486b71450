"""The surrogate and the policy on top of it: what they learn, and that they learn it from the records alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.parameters import FloatRange
from search.points import Points
from search.policy import Policy
from search.surrogate import Observations, Recipes, Surrogate
from search.tried import Tried

POINTS = Points({"learning_rate": FloatRange(low=0.0, high=1.0), "dropout": FloatRange(low=0.0, high=1.0)}, {})


def tried(number: int, at: float, score: float | None, bits: float = 1.0, reached: float = 0.25) -> Tried:
    """A trial whose learning rate is `at`; without a score, one that was stopped at a rung."""
    params = {"learning_rate": at, "dropout": 0.5}
    if score is None:
        return Tried(number, params, {reached: bits}, None)
    return Tried(number, params, {0.25: bits, 1.0: bits}, (score, 64))


def good(at: float) -> float:
    """A score that is best at 0.7."""
    return max(0.0, 0.9 - 2.0 * (at - 0.7) ** 2)


def plain(x: np.ndarray) -> Recipes:
    """Recipes of which nothing is believed."""
    return Recipes(x, np.zeros((len(x), 0)))


def test_a_surrogate_finds_what_it_was_shown() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((30, 2))
    y = 2.0 * np.sin(3.0 * x[:, 0])  # the second coordinate tells nothing
    surrogate = Surrogate(Observations(plain(x), y, np.full(30, 0.01)))
    unseen = rng.random((50, 2))
    mean, sd = surrogate.fresh(plain(unseen))
    assert np.corrcoef(mean, 2.0 * np.sin(3.0 * unseen[:, 0]))[0, 1] > 0.95
    assert (sd > 0).all()


def test_a_trial_is_known_better_than_a_new_one_of_its_recipe() -> None:
    x = np.array([[0.5, 0.5]])
    surrogate = Surrogate(Observations(plain(x), np.array([1.0]), np.array([0.05])))
    assert surrogate.of_trials()[1][0] < surrogate.fresh(plain(x))[1][0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_same_records_give_the_same_recipe(seed: int) -> None:
    trials = [tried(n, n / 6, good(n / 6), bits=2.0 - n / 6) for n in range(4)] + [tried(4, 0.8, None)]
    assert Policy(POINTS, trials).new([seed], {}) == Policy(POINTS, list(trials)).new([seed], {})


def test_a_new_recipe_is_looked_for_where_the_good_ones_are() -> None:
    trials = [tried(n, at, good(at)) for n, at in enumerate(np.linspace(0.0, 1.0, 9))]
    assert Policy(POINTS, trials).new([0], {})["learning_rate"] == pytest.approx(0.7, abs=0.2)


def test_a_rung_tells_where_the_good_ones_are_too() -> None:
    scored = [tried(n, at, good(at), bits=1.0 + (at - 0.7) ** 2) for n, at in enumerate((0.0, 0.2))]
    stopped = [tried(n, at, None, bits=1.0 + (at - 0.7) ** 2) for n, at in enumerate(np.linspace(0.3, 1.0, 8), 2)]
    assert Policy(POINTS, scored + stopped).new([0], {})["learning_rate"] == pytest.approx(0.7, abs=0.25)


def test_what_is_fixed_stays() -> None:
    trials = [tried(n, at, good(at)) for n, at in enumerate(np.linspace(0.0, 1.0, 5))]
    assert Policy(POINTS, trials).new([0], {"dropout": 0.25})["dropout"] == pytest.approx(0.25)


def test_what_does_not_fit_is_passed_over() -> None:
    trials = [tried(n, at, good(at)) for n, at in enumerate(np.linspace(0.0, 1.0, 5))]
    params = Policy(POINTS, trials).new([0], {}, lambda params: float(params["learning_rate"]) < 0.3)
    assert float(params["learning_rate"]) < 0.3


def test_no_recipe_is_suggested_twice() -> None:
    space = Points({"dropout": FloatRange(low=0.0, high=0.3, step=0.1)}, {})
    trials = [Tried(n, space.params(np.array([n / 3])), {1.0: 1.0}, (0.5, 64)) for n in range(3)]
    assert Policy(space, trials).new([1], {}) == {"dropout": pytest.approx(0.3)}


def test_a_trial_that_diverged_spoils_nothing() -> None:
    trials = [tried(0, 0.7, 0.8), tried(1, 0.2, 0.3, bits=2.0), tried(2, 0.9, None, bits=1e30)]
    assert 0.0 <= float(Policy(POINTS, trials).new([0], {})["learning_rate"]) <= 1.0


def test_of_thousands_the_newest_and_the_best_tell() -> None:
    good_ones = [tried(n, 0.7, 0.9) for n in range(5)]
    many = [tried(n, n % 97 / 97 * 0.3, 0.1) for n in range(5, 3000)]
    assert Policy(POINTS, good_ones + many).new([0], {})["learning_rate"] == pytest.approx(0.7, abs=0.25)
