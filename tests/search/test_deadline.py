"""The clocks, and the deadline that holds whatever becomes of them."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from search.clock import JUMP_S, SYSTEM, Deadline, left_s
from train.until import next_time

HOUR = 3600.0


def at(local: str) -> float:
    return datetime.fromisoformat(local).timestamp()


def test_the_machine_s_clocks_agree_with_each_other() -> None:
    before = time.time(), time.monotonic()
    SYSTEM.sleep(0.0)
    assert before[0] <= SYSTEM.now() <= time.time()
    assert before[1] <= SYSTEM.monotonic() <= time.monotonic()
    assert SYSTEM.boottime() >= SYSTEM.monotonic() - 1.0  # the one goes on in suspend, the other does not


def test_a_fake_clock_goes_by_itself_only_where_it_is_told_to() -> None:
    slept: list[float] = []
    clock = FakeClock(wall=100.0, awake=10.0, on_sleep=slept.append)
    clock.sleep(2.0)
    clock.suspend(50.0)
    clock.set(7.0)
    assert (clock.now(), clock.monotonic(), clock.boottime(), slept) == (7.0, 12.0, 62.0, [2.0])


@pytest.mark.parametrize(
    ("what", "left_h"),
    [
        (lambda clock: None, 5),
        (lambda clock: clock.advance(2 * HOUR), 3),
        (lambda clock: clock.suspend(2 * HOUR), 3),
        (lambda clock: clock.suspend(11 * HOUR), -6),  # it slept past the deadline: over, not tomorrow's
        (lambda clock: clock.set(at("2026-06-01 23:00")), 4),
        (lambda clock: clock.set(at("2026-06-01 20:00")), 7),
        (lambda clock: clock.set(at("2026-06-05 22:30")), 4.5),  # the date was wrong
        (lambda clock: clock.set(at("1970-01-02 01:00")), 2),  # and the network has not been asked yet
        (lambda clock: clock.set(at("2026-06-02 03:30")), 23.5),  # says that the night begins now
        (lambda clock: clock.set(at("2026-06-01 22:01")), 5 - 1 / 60),
    ],
)
def test_the_deadline_is_the_time_of_day_that_was_asked_for(what, left_h: float) -> None:
    clock = FakeClock(wall=at("2026-06-01 22:00"))
    deadline = Deadline.after_now("03:00", clock)
    what(clock)
    assert deadline.left_s(clock) == pytest.approx(left_h * HOUR)


def test_a_clock_that_is_set_past_the_deadline_in_the_night_ends_it() -> None:
    clock = FakeClock(wall=at("2026-06-01 22:00"))
    deadline = Deadline.after_now("03:00", clock)
    clock.advance(4 * HOUR)
    clock.set(at("2026-06-02 03:30"))
    assert deadline.left_s(clock) == pytest.approx(-0.5 * HOUR)
    clock.set(at("2026-06-02 01:30"))
    assert deadline.left_s(clock) == pytest.approx(1.5 * HOUR)


def test_a_small_correction_of_the_clock_does_not_make_tomorrow_s_deadline_today_s() -> None:
    clock = FakeClock(wall=at("2026-06-01 03:00:30"))
    deadline = Deadline.after_now("03:00", clock)
    clock.set(at("2026-06-01 02:59:30"))
    assert deadline.left_s(clock) == pytest.approx(24 * HOUR + 30)


times = st.times().map(lambda t: t.strftime("%H:%M"))


@given(
    start=st.floats(at("2020-01-02"), at("2035-01-01")),
    until=times,
    nights=st.lists(
        st.tuples(st.sampled_from(["advance", "suspend", "set"]), st.floats(1.0, 4 * HOUR), st.booleans()), max_size=6
    ),
)
def test_whatever_happens_it_is_the_asked_time_and_sleep_and_work_bring_it_nearer(start, until, nights) -> None:
    clock = FakeClock(wall=start)
    deadline = Deadline.after_now(until, clock)
    for what, seconds, back in nights:
        before = deadline.left_s(clock)
        if what == "set":
            clock.set(clock.now() + (-seconds if back else seconds))
        else:
            getattr(clock, what)(seconds)
            assert deadline.left_s(clock) == pytest.approx(before - seconds, abs=1e-3)
        assert deadline.reading(clock) == next_time(until, deadline.reading(clock) - 1.0)
        # and it lies in the day that follows the start, as the clock dates that now
        started = start + (clock.now() - start - clock.boottime() + 1_000.0)
        assert -JUMP_S <= deadline.reading(clock) - started <= 25 * HOUR + JUMP_S


def test_a_number_is_a_reading_and_none_no_deadline() -> None:
    clock = FakeClock(wall=100.0)
    assert left_s(130.0, clock) == 30.0
    assert left_s(None, clock) is None
    assert left_s(Deadline.after_now("03:00", clock), clock) == pytest.approx(next_time("03:00", 100.0) - 100.0)
