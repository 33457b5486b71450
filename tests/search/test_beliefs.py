"""What is believed of recipes before any trial, and that trials outweigh it."""

from __future__ import annotations

import numpy as np
import pytest

from search import config, home
from search.beliefs import promises
from search.config import StudyConfig
from search.parameters import Choice, FloatRange, IntRange
from search.points import Points
from search.policy import Policy, believed
from search.surrogate import BETWEEN
from search.tried import Tried


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """The rehearsal's study."""
    path = tmp_path_factory.mktemp("beliefs") / home.STUDY_FILE
    path.write_text(home.preset("rehearsal"), encoding="utf-8")
    return config.load(path)


def promise(points: Points, **params: float | str) -> float:
    """What is believed of one recipe."""
    return float(promises(points, points.places(params)[None]).sum())


def test_what_the_field_knows_promises_more() -> None:
    targets = Choice(choices=("mlp", "all-linear", "attention-qv"))
    points = Points(
        {"targets": targets, "batch_size": Choice(choices=(32, 8, 16)), "rank": IntRange(low=4, high=64)}, {}
    )
    assert (
        promise(points, targets="all-linear") > promise(points, targets="mlp") > promise(points, targets="attention-qv")
    )
    assert promise(points, batch_size=8) > promise(points, batch_size=16) > promise(points, batch_size=32)
    assert promise(points, rank=64) > promise(points, rank=8)


def test_a_low_learning_rate_promises_less_and_of_high_ones_none_is_believed_better() -> None:
    points = Points({"learning_rate": FloatRange(low=1e-5, high=1e-3, log=True)}, {})
    assert (
        promise(points, learning_rate=1e-5) < promise(points, learning_rate=5e-5) < promise(points, learning_rate=3e-4)
    )
    assert promise(points, learning_rate=3e-4) == promise(points, learning_rate=1e-3)


def test_nothing_is_believed_of_a_data_sets_weight() -> None:
    points = Points({"weight.noisy": FloatRange(low=0.0, high=1.0), "warmup": FloatRange(low=0.0, high=0.3)}, {})
    assert not promises(points, points.draw(20, np.random.default_rng(0))).any()


def test_beliefs_are_weak_beside_what_recipes_differ_by(studied: StudyConfig) -> None:
    points = Points(studied.space, studied.recipe)
    mean = promises(points, points.draw(2000, np.random.default_rng(0))).sum(axis=1)
    assert mean.std() < 0.3 * BETWEEN**0.5


def test_the_first_recipe_is_a_promising_one_that_fits(studied: StudyConfig) -> None:
    points = Points(studied.space, studied.recipe)
    assert believed(points, [0], {})["targets"] == "all-linear"
    few = believed(points, [0], {"dropout": 0.1}, lambda params: params["targets"] == "mlp")
    assert (few["targets"], few["dropout"]) == ("mlp", pytest.approx(0.1))
    assert believed(points, [0], {}) != believed(points, [1], {})


def test_a_handful_of_trials_outweighs_what_was_believed() -> None:
    points = Points({"learning_rate": FloatRange(low=1e-5, high=1e-3, log=True)}, {})
    trials = [  # the lower, the better
        Tried(number, {"learning_rate": 10.0 ** (-5 + 2 * place)}, {}, (0.8 - 0.7 * place, 64))
        for number, place in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))
    ]
    assert float(str(Policy(points, trials).new([0], {})["learning_rate"])) < 3e-5


def test_where_a_believed_value_did_badly_another_is_tried_although_no_trial_had_it() -> None:
    points = Points({"batch_size": Choice(choices=(8, 16, 32)), "dropout": FloatRange(low=0.0, high=0.2)}, {})
    trials = [Tried(n, {"batch_size": 8, "dropout": 0.02 * n}, {}, (0.05, 64)) for n in range(4)]
    assert Policy(points, trials).new([0], {})["batch_size"] == 32
