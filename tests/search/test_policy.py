"""The surrogate and the policy on top of it: what they learn, and that they learn it from the records alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.parameters import FloatRange
from search.points import Points
from search.policy import Policy, Tried
from search.surrogate import Observations, Surrogate

POINTS = Points({"learning_rate": FloatRange(low=0.0, high=1.0), "dropout": FloatRange(low=0.0, high=1.0)}, {})


def tried(number: int, at: float, score: float | None, bits: float = 1.0, reached: float = 0.25) -> Tried:
    """A trial whose learning rate is `at`; without a score, one that was stopped at a rung."""
    params = {"learning_rate": at, "dropout": 0.5}
    if score is None:
        return Tried(number, params, {reached: bits}, None, 10.0, thawable=True)
    return Tried(number, params, {0.25: bits, 1.0: bits}, (score, 64), 10.0)


def good(at: float) -> float:
    """A score that is best at 0.7."""
    return max(0.0, 0.9 - 2.0 * (at - 0.7) ** 2)


def test_a_surrogate_finds_what_it_was_shown() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((30, 2))
    y = 2.0 * np.sin(3.0 * x[:, 0])  # the second coordinate tells nothing
    surrogate = Surrogate(Observations(x, y, np.full(30, 0.01)))
    unseen = rng.random((50, 2))
    mean, sd = surrogate.fresh(unseen)
    assert np.corrcoef(mean, 2.0 * np.sin(3.0 * unseen[:, 0]))[0, 1] > 0.95
    assert (sd > 0).all()


def test_a_trial_is_known_better_than_a_new_one_of_its_recipe() -> None:
    x = np.array([[0.5, 0.5]])
    surrogate = Surrogate(Observations(x, np.array([1.0]), np.array([0.05])))
    assert surrogate.of_trials()[1][0] < surrogate.fresh(x)[1][0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_same_records_give_the_same_choice(seed: int) -> None:
    trials = [tried(n, n / 6, good(n / 6), bits=2.0 - n / 6) for n in range(4)] + [tried(4, 0.8, None)]
    assert Policy(POINTS, trials).next([seed]) == Policy(POINTS, list(trials)).next([seed])


def test_a_new_recipe_is_looked_for_where_the_good_ones_are() -> None:
    trials = [tried(n, at, good(at)) for n, at in enumerate(np.linspace(0.0, 1.0, 9))]
    params = Policy(POINTS, trials).new([0]).params
    assert params is not None
    assert params["learning_rate"] == pytest.approx(0.7, abs=0.2)


def test_the_most_promising_trial_is_thawed() -> None:
    scored = [tried(n, at, good(at), bits=1.0 + (at - 0.7) ** 2) for n, at in enumerate((0.0, 0.3, 0.5, 1.0))]
    stopped = [tried(4, 0.1, None, bits=1.5), tried(5, 0.72, None, bits=0.95), tried(6, 0.2, None, bits=1.4)]
    looked = [tried(n, 0.15, None, bits=1.4) for n in range(7, 60)]  # long enough at new ones
    assert Policy(POINTS, scored + stopped + looked).next([0]).thaw == 5


def test_no_recipe_is_suggested_twice() -> None:
    space = Points({"dropout": FloatRange(low=0.0, high=0.3, step=0.1)}, {})
    trials = [Tried(n, space.params(np.array([n / 3])), {1.0: 1.0}, (0.5, 64), 1.0) for n in range(3)]
    assert Policy(space, trials).new([1]).params == {"dropout": pytest.approx(0.3)}


def test_a_trial_that_diverged_spoils_nothing() -> None:
    trials = [tried(0, 0.7, 0.8), tried(1, 0.2, 0.3, bits=2.0), tried(2, 0.9, None, bits=1e30)]
    assert np.isfinite(Policy(POINTS, trials).next([0]).worth)
