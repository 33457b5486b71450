"""What is left of a budget against what trials need: what is told is enough, in the night after as well."""

from __future__ import annotations

import re

import pytest
from test_cost import TERMS, recipe

from search.affordable import Left, Prices, Purse, refusal
from search.cost import Costs, Observation


@pytest.fixture(scope="module")
def prices() -> Prices:
    """Those of a study with one trial, which took what was planned."""
    work = TERMS.work(recipe())
    return Prices.of(TERMS, Costs.learn([Observation(work, {c: s for c, s in work.planned.items() if s})]))


@pytest.mark.parametrize("kept_s", [0.0, 300.0])
def test_with_what_a_spent_budget_asks_for_the_next_night_has_a_trial(prices: Prices, kept_s: float) -> None:
    """Also where the final race takes all that was kept for it, and the next night has to load the base model."""
    purse = Purse(prices, lambda params: recipe(**params), Left(3600.0, 3500.0 - kept_s, None, kept_s), load=False)
    assert min(purse.excess({"rank": 8}), purse.excess({"rank": 128})) > 0
    found = re.search(r"with ([\d.]+) GPU-hours it goes on", purse.ending())
    assert found is not None
    after = Left(3600 * float(found[1]), 3500.0, None, kept_s)
    later = Purse(prices, lambda params: recipe(**params), after, load=True)
    assert -4.0 < later.excess({"rank": 8}) <= 0  # no more than a thousandth of an hour too much


def test_the_minimum_that_a_plan_names_leaves_what_is_kept_for_the_race(prices: Prices) -> None:
    left = Left(3600.0, 3500.0, None, kept_s=60.0)
    said = refusal(prices, recipe(rank=8), left, scored=True, study="study.toml")
    assert "leaves 40 s beside 60 s for the final race" in said
    found = re.search(r"--budget ([\d.]+)`", said)
    assert found is not None
    enough = Left(3600 * float(found[1]), 3500.0, None, kept_s=60.0)
    assert refusal(prices, recipe(rank=8), enough, scored=True, study="study.toml") == ""
