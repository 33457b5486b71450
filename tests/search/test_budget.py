"""The budget's decisions, by tables and as a property of whole attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.budget import (
    LEASE_S,
    Decision,
    Ending,
    Standing,
    decide,
    hours,
    left_s,
    may_start,
    reserve_s,
)


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
    ("spent", "deadline", "kept", "ending"),
    [
        (0, None, 0, None),
        (
            96,
            None,
            0,
            Ending("the budget of 0.028 GPU-hours is spent (0.027 used); with a larger one it goes on", settled=True),
        ),
        (
            70,
            None,
            26,
            Ending(
                "the budget of 0.028 GPU-hours is spent (0.019 used, 26 s kept for the final race); with a larger one "
                "it goes on",
                settled=True,
            ),
        ),
        (70, None, 24, None),
        (0, 4.0, 0, Ending("the deadline is reached")),
        (0, 400.0, 0, None),
    ],
)
def test_nothing_starts_that_cannot_reach_a_checkpoint(
    spent: float, deadline: float | None, kept: float, ending: Ending | None
) -> None:
    assert may_start(100, spent, deadline, kept, reserve_s=5) == ending


def test_the_reserve_grows_with_the_longest_step_and_save() -> None:
    assert reserve_s(0, 0) == 2.5
    assert reserve_s(20, 4) == 47.0


def test_the_forecast_is_the_mean_trial_and_never_more_than_the_budget() -> None:
    assert left_s([], 5, 100) is None
    assert left_s([10, 20], 4, 100) == 60
    assert left_s([10, 20], 4, 100, running_s=5) == 55
    assert left_s([10, 20], 40, 100) == 100
    assert left_s([10, 20], 2, 100, running_s=40) == 15  # one that takes long leaves the next one's seconds alone
    assert left_s([10, 20], 2, 100, running_s=5, more_s=20) == 45
    assert left_s([10, 20], 0, 100, more_s=20) == 20


def test_hours_show_seconds() -> None:
    assert hours(3600) == "1"
    assert hours(90) == "0.025"


def test_a_residue_of_floats_is_not_paid() -> None:
    assert decide(Standing(16.0, 16.0 - 2e-15, 4.0, None, reserve_s=3.0)) == Decision(0, "")
