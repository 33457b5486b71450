"""The budget's decisions, by tables and as a property of whole attempts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.budget import (
    LEASE_S,
    Decision,
    Need,
    Standing,
    decide,
    first_fitting,
    fits,
    hours,
    left_s,
    may_start,
    misses,
    reserve_s,
    too_little,
)
from search.cost import Estimate


@pytest.mark.parametrize(
    ("limit", "spent", "lease_left", "deadline", "decision"),
    [
        (100, 10, 8, None, Decision(0, "")),  # the lease is long enough
        (100, 10, 5, None, Decision(5, "")),  # room for another payment
        (100, 97, 4, None, Decision(3, "")),  # what is left is paid, not more
        (100, 100, 4, None, Decision(0, "")),  # nothing left to pay, but time to use
        (100, 100, 3, None, Decision(0, "budget")),  # the reserve is needed to save
        (100, 10, 8, 60, Decision(0, "")),
        (100, 10, 8, 3, Decision(0, "deadline")),
        (100, 10, 4, 3, Decision(5, "deadline")),  # saving is paid for, too
        (100, 10, 4, -50, Decision(5, "deadline")),
    ],
)
def test_decides(limit: float, spent: float, lease_left: float, deadline: float | None, decision: Decision) -> None:
    assert decide(Standing(limit, spent, lease_left, deadline, reserve_s=3.0)) == decision


@given(
    limit=st.floats(10, 200),
    ticks=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=400),
    reserve=st.floats(1, 6),
)
def test_an_attempt_is_never_unpaid_never_over_the_limit_and_at_most_a_lease_ahead(
    limit: float, ticks: list[float], reserve: float
) -> None:
    paid = min(LEASE_S, limit)
    used = 0.0
    for tick in ticks:
        decision = decide(Standing(limit, paid, paid - used, None, reserve))
        paid += decision.pay_s
        assert paid <= limit + 1e-9
        assert paid - used <= LEASE_S + 1e-9
        if decision.stop:
            assert used == 0 or limit - used >= reserve - max(ticks) - 1e-9  # enough is left to save
            return
        used += tick
        assert used <= paid + 1e-9


@pytest.mark.parametrize(
    ("spent", "deadline", "reason"),
    [
        (0, None, ""),
        (96, None, "the budget of 0.028 GPU-hours is spent (0.027 used)"),
        (0, 4.0, "the deadline is reached"),
        (0, 400.0, ""),
    ],
)
def test_nothing_starts_that_cannot_reach_a_checkpoint(spent: float, deadline: float | None, reason: str) -> None:
    assert may_start(100, spent, deadline, reserve_s=5) == reason


def test_the_reserve_grows_with_the_longest_step_and_save() -> None:
    assert reserve_s(0, 0) == 2.5
    assert reserve_s(20, 4) == 47.0


def test_the_forecast_is_the_mean_trial_and_never_more_than_the_budget() -> None:
    assert left_s([], 5, 100) is None
    assert left_s([10, 20], 4, 100) == 60
    assert left_s([10, 20], 4, 100, running_s=5) == 55
    assert left_s([10, 20], 40, 100) == 100


def test_hours_show_seconds() -> None:
    assert hours(3600) == "1"
    assert hours(90) == "0.025"


def test_a_residue_of_floats_is_not_paid() -> None:
    assert decide(Standing(16.0, 16.0 - 2e-15, 4.0, None, reserve_s=3.0)) == Decision(0, "")


# Whether a trial may start

NEED = Need(whole_s=300.0, checkpoint_s=40.0)


@pytest.mark.parametrize(
    ("left", "deadline", "said"),
    [
        (300, None, ""),
        (299, None, "it may take 300 s, and the budget has 299 s left"),
        (-5, None, "it may take 300 s, and the budget has 0 s left"),
        (300, 50, ""),  # the next night goes on from its checkpoint
        (300, 44, "it needs 45 s to a checkpoint, and the deadline is in 44 s"),
        (300, -9, "it needs 45 s to a checkpoint, and the deadline is in 0 s"),
    ],
)
def test_the_budget_pays_for_the_whole_trial_and_the_night_lasts_to_a_checkpoint(
    left: float, deadline: float | None, said: str
) -> None:
    assert misses(NEED, left, deadline) == said


needs = st.builds(Need, st.floats(1, 1000), st.floats(1, 100))


@given(
    wanted=st.lists(needs, max_size=8),
    left=st.floats(0, 1000),
    deadline=st.none() | st.floats(0, 200),
    more=st.floats(0, 500),
)
def test_a_smaller_trial_starts_where_the_first_cannot_and_more_budget_never_stops_one(
    wanted: list[Need], left: float, deadline: float | None, more: float
) -> None:
    place = first_fitting(wanted, left, deadline)
    if place is None:
        assert not any(fits(need, left, deadline) for need in wanted)
        return
    assert fits(wanted[place], left, deadline)
    assert not any(fits(need, left, deadline) for need in wanted[:place])
    assert fits(wanted[place], left + more, deadline)


def test_the_margin_is_one_standard_deviation_and_a_quarter_at_most() -> None:
    by_cause = {"data": 2.0, "train": 90.0, "save": 3.0, "overhead": 1.0, "score": 4.0}
    sure, unsure = (Need.of(Estimate(100.0, sd, by_cause), steps=90) for sd in (0.1, 0.9))
    assert sure.whole_s == pytest.approx(100 * math.exp(0.1))
    assert unsure.whole_s == 125
    assert unsure.checkpoint_s == pytest.approx(1.25 * (2 + 1 + 2 * 90 / 90 + 3))


def test_what_cannot_hold_one_trial_is_refused_with_the_minimum() -> None:
    assert too_little(400, 0, 100, NEED) == ""
    assert too_little(180, 0, None, NEED) == (
        "the budget of 0.05 GPU-hours leaves 180 s, and the smallest trial of this space may take 300 s: "
        "raise budget_hours in [study], or --budget, to 0.084 or more"
    )
    assert "0.1 GPU-hours, 0.05 of them used, leaves 180 s" in too_little(360, 180, None, NEED)
    assert "to 0.134 or more" in too_little(360, 180, None, NEED)
    late = "and the smallest trial of this space needs 45 s to its first checkpoint: give a later until"
    assert too_little(400, 0, 20, NEED).startswith(f"the deadline is 20 s away, {late}")
    assert too_little(400, 0, -20, NEED).startswith(f"the deadline has passed, {late}")
    assert too_little(3600 * 0.134, 180, 60, NEED) == ""  # the hours that it names are enough
