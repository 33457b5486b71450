"""The forecast: how many trials still fit, and how good the best will be."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.forecast import (
    AIMED,
    ENOUGH,
    FILE,
    Count,
    Expected,
    Final,
    Forecast,
    Scored,
    Typical,
    final,
    fitting,
    keep,
    kept,
    of_study,
)
from train.rundir import write_json

COSTS = st.lists(st.floats(1.0, 500.0), min_size=1, max_size=30)
SECONDS = st.floats(0.0, 1e5)
SCORES = st.lists(st.floats(0.0, 1.0), min_size=ENOUGH, max_size=30)


def scored(values: list[float], error: float = 0.05) -> list[Scored]:
    return [Scored(value, error) for value in values]


@given(costs=COSTS, left=SECONDS, more=SECONDS, wanted=st.none() | st.integers(0, 50), running=st.floats(0, 600))
def test_more_budget_never_fits_fewer_trials(
    costs: list[float], left: float, more: float, wanted: int | None, running: float
) -> None:
    typical = Typical.of(costs)
    few, many = (fitting(typical, seconds, wanted, running) for seconds in (left, left + more))
    assert 0 <= few.trials <= many.trials
    assert wanted is None or many.trials <= wanted
    assert few.sd >= 0


def test_equal_trials_are_counted_and_unequal_ones_are_less_sure() -> None:
    assert fitting(Typical.of([100.0] * 5), 1050.0) == Count(10, 0.0)
    wide = fitting(Typical.of([50.0, 150.0] * 5), 1050.0)
    assert wide.trials == 10
    assert 2 < wide.sd < 5
    assert fitting(Typical.of([100.0] * 5), 1050.0, wanted=4) == Count(4, 0.0)
    assert fitting(Typical.of([100.0] * 5), 1005.0, running_s=60.0).trials == 10
    assert fitting(Typical.of([100.0]), 0.0).trials == 0


@pytest.mark.parametrize("ended", [5, 10, 30])
def test_the_interval_holds_what_happens_where_a_trial_is_mostly_like_the_one_before(ended: int) -> None:
    drawn, within = random.Random(0), []
    for _ in range(300):
        costs = [250.0]
        for _ in range(89):
            costs.append(costs[-1] if drawn.random() < 0.6 else drawn.choice([60.0, 250.0, 400.0]))
        count = fitting(Typical.of(costs[:ended]), 4000.0)
        sums = [sum(costs[ended : ended + n]) for n in range(1, 51)]
        within.append(abs(sum(total <= 4000.0 for total in sums) - count.trials) <= max(count.sd, 0.5))
    assert 0.55 < statistics.mean(within) < 0.85


def test_what_a_search_picks_may_lie_off_what_random_recipes_cost_however_well_that_is_known() -> None:
    known = Typical.planned([80.0, 120.0], unsure=0.0)
    assert (known.seconds, known.spread, known.unsure) == (100.0, 0.2, AIMED)
    assert Typical.planned([80.0, 120.0], unsure=0.5).unsure == pytest.approx(0.5385, abs=1e-4)


@settings(max_examples=30)
@given(values=SCORES, to_come=st.integers(0, 40), more=st.integers(0, 40))
def test_more_trials_to_come_never_lower_the_final_value(values: list[float], to_come: int, more: int) -> None:
    few, many = final(scored(values), to_come), final(scored(values), to_come + more)
    assert few is not None
    assert many is not None
    assert few.value <= many.value + 1e-9 <= 1.0 + 1e-9
    assert few.sd > 0


def test_the_winners_curse_is_taken_off() -> None:
    values = [0.40, 0.42, 0.45, 0.47, 0.50, 0.60]
    nothing_to_come = final(scored(values, error=0.06), to_come=0)
    assert nothing_to_come is not None
    assert statistics.mean(values) < nothing_to_come.value < 0.60
    sure = final(scored(values, error=0.001), to_come=0)
    assert sure is not None
    assert sure.value == pytest.approx(0.60, abs=0.005)


def test_the_final_value_is_near_what_random_trials_give() -> None:
    drawn, off, within = random.Random(1), [], []
    for _ in range(60):
        values = [min(1.0, max(0.0, drawn.gauss(0.4, 0.12))) for _ in range(24)]
        told = final(scored(values[:10], error=0.02), to_come=14)
        assert told is not None
        off.append(told.value - max(values))
        within.append(abs(off[-1]) <= told.sd)
    assert abs(statistics.mean(off)) < 0.04
    assert statistics.mean(within) > 0.6


def test_few_trials_have_a_count_by_the_plan_and_no_final_value(tmp_path: Path) -> None:
    planned = Typical(100.0, 0.2, 0.1)
    keep(tmp_path, Expected(planned, kept_s=15.0))
    assert kept(tmp_path) == Expected(planned, kept_s=15.0)
    early = of_study([300.0] * 2, planned, scored([0.4, 0.5]), wanted=20, unspent_s=1050.0)
    assert early is not None
    assert early.count.trials == 10
    assert early.final is None
    assert kept(tmp_path / "nowhere") == Expected()
    for other in ({"typical": None}, {"trial": {"seconds": 1.0}}, {"trial": None, "more": 1}):
        write_json(tmp_path / FILE, other)
        assert kept(tmp_path) == Expected()
    (tmp_path / FILE).write_text('{"trial": nu')  # damaged
    assert kept(tmp_path) == Expected()
    keep(tmp_path, Expected(planned))
    assert kept(tmp_path) == Expected(planned)
    assert of_study([], None, [], wanted=20, unspent_s=1000.0) is None
    late = of_study([300.0] * 6, planned, scored([0.4, 0.5, 0.3, 0.2, 0.45, 0.1]), wanted=20, unspent_s=1050.0)
    assert late is not None
    assert late.count.trials == 3
    assert late.final is not None
    assert of_study([300.0] * 6, planned, [], wanted=0, unspent_s=1050.0) is None


def test_tonight_is_the_deadline_where_it_comes_before_the_budgets_end() -> None:
    def told(deadline_s: float | None) -> Forecast:
        made = of_study([100.0] * 6, None, [], wanted=40, unspent_s=2050.0, deadline_s=deadline_s)
        assert made is not None
        return made

    assert (told(650.0).tonight, told(650.0).count.trials) == (True, 6)
    assert (told(9000.0).tonight, told(9000.0).count.trials) == (False, 20)
    assert told(None).count.trials == 20
    assert told(-5.0).count.trials == 0


def test_what_the_loading_of_the_base_model_takes_is_no_trials() -> None:
    for load_s, tonight, later in ((0.0, 6, 20), (100.0, 5, 19)):
        for deadline_s, count in ((650.0, tonight), (None, later)):
            made = of_study([100.0] * 6, None, [], wanted=40, unspent_s=2050.0, deadline_s=deadline_s, load_s=load_s)
            assert made is not None
            assert made.count.trials == count


@pytest.mark.parametrize(
    ("forecast", "line"),
    [
        (
            Forecast(Count(14, 2.2), True, Final(0.61, 0.03)),
            "tonight fits 14 ± 2 more trials; the study will probably end at 0.61 ± 0.03",
        ),
        (Forecast(Count(1, 0.2), False, None), "the budget fits 1 more trial"),
        (Forecast(Count(0, 0.8), True, None), "tonight fits 0 ± 1 more trials"),
    ],
)
def test_a_forecast_is_one_short_line(forecast: Forecast, line: str) -> None:
    assert str(forecast) == line
    assert len(str(forecast)) <= 80
