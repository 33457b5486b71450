"""What `make bench-search` makes of nights: who is picked, when a regret is reached, and what is compared."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from search_curve import OURS, RANDOM, Curve, figures_of, ratio, regret
from search_record import Night

AT = np.arange(1.0, 101.0)


def night() -> Night:
    """One whose world nobody asks."""
    world: Any = None
    return Night(world, seed=0)


def falling(method: str, by: float, nights: int = 20) -> Curve:
    """Regret 1 at first, lower by so much a second, a little otherwise from night to night."""
    luck = np.random.default_rng(0).normal(scale=0.01, size=(nights, 1))
    return Curve(method, AT, 1.0 - by * AT[None, :] + luck)


def test_the_trial_with_the_highest_value_is_picked_of_equals_the_first() -> None:
    spent = night()
    for seconds, share, truth, values in ((10, 0.5, 0.4, [1]), (20, 0.7, 0.3, [2, 1]), (30, 0.7, 0.6, [2, 1, 2])):
        spent.spent_s = float(seconds)
        spent.done.append((share, truth))
        spent.pick(values)
    assert spent.trace == [(10.0, 0.4)]
    spent.pick([share for share, _ in spent.done])
    assert spent.trace[1:] == [(30.0, 0.3)]


def test_before_a_trial_has_ended_the_regret_is_all_there_is() -> None:
    assert list(regret(0.9, [(10.0, 0.4), (30.0, 0.6)], np.array([5.0, 10.0, 40.0]))) == pytest.approx([0.9, 0.5, 0.3])


def test_twice_as_steep_a_curve_needs_half_of_the_seconds() -> None:
    slow, quick = falling(RANDOM, 0.005), falling(OURS, 0.01)
    measured, low, high = ratio(quick, slow, slow)
    assert measured == pytest.approx(0.5)
    assert low <= 0.5 <= high
    assert ratio(slow, quick, quick) == (np.inf, np.inf, np.inf)  # it never gets there
    assert ratio(slow, quick, slow)[0] == pytest.approx(2.0)


def test_what_is_compared_is_the_seconds_to_two_regrets_and_the_end() -> None:
    world: Any = SimpleNamespace(landscape=SimpleNamespace(name="hills"))
    found = {
        OURS: falling(OURS, 0.009),
        RANDOM: falling(RANDOM, 0.002),
        "optuna-gp": falling("optuna-gp", 0.005),
        "syne-asha": falling("syne-asha", 0.003),
    }
    to_random, to_random_against_peer, to_peer, end = figures_of(world, found, priors=True)
    assert re.fullmatch(
        r"hills with priors: GPU-seconds to the last regret of random search, 0.79\d+, against random search",
        to_random.name,
    )
    assert (to_random.reached, to_random_against_peer.reached, to_peer.reached, end.reached) == (True,) * 4
    assert "Optuna GPSampler" in to_peer.name
    assert to_peer.measured.startswith("56 s, 0.56 of the peer's (")
