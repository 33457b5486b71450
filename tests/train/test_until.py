"""A known switch-off: when it is, and how a run saves before it."""

from __future__ import annotations

from datetime import datetime

import pytest

from train.recipe import RecipeError
from train.until import Until, is_time, next_time


def reading(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_it_is_counted_from_the_start_and_passes() -> None:
    now = reading("2026-03-02 22:00:00")
    until = Until("03:00", now, now=lambda: now)
    assert until.left_s == 5 * 3600
    assert until.told == "03:00, in 5 h 00 min"
    assert Until("21:59", now, now=lambda: now).told == "21:59, in 23 h 59 min"
    now = reading("2026-03-03 03:00:30")  # a machine that slept past it
    assert until.left_s == -30
    assert next_time("03:00", now) == reading("2026-03-04 03:00:00")


@pytest.mark.parametrize("text", ["3:00", "24:00", "03:60", "03:00\n", "", "tomorrow", "٠٣:٠٠"])
def test_what_is_no_time_of_day_is_refused(text: str) -> None:
    assert not is_time(text)
    with pytest.raises(RecipeError, match=r"is no time of day like 03:00"):
        Until.of(text)
