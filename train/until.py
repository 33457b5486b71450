"""A time of day at which a run is to have saved: when it is next, and how long it is until then."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from train.recipe import RecipeError

TIME_OF_DAY = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


def is_time(text: str) -> bool:
    """Whether a text is a time of day, from 00:00 to 23:59."""
    return re.match(TIME_OF_DAY, text) is not None and len(text) == 5


def next_time(time_of_day: str, now: float, zone: tzinfo | None = None) -> float:
    """The first reading of time.time() after `now` at which the local clock shows `time_of_day` ("HH:MM").

    Where the clocks skip that time, it is when they would have shown it. `zone` is the machine's own by default.
    """
    hour, minute = map(int, time_of_day.split(":"))
    today = datetime.fromtimestamp(now, zone)
    readings = [
        (today + timedelta(days=days)).replace(hour=hour, minute=minute, second=0, microsecond=0, fold=fold).timestamp()
        for days in (0, 1)
        for fold in (0, 1)
    ]
    return min(reading for reading in readings if reading > now)


@dataclass(frozen=True)
class Until:
    """The next time at which the clock shows `time_of_day`, from `began` on. `now` reads the wall clock."""

    time_of_day: str
    began: float
    now: Callable[[], float] = time.time

    @classmethod
    def of(cls, text: str) -> Until:
        """From now on. Raises RecipeError where the text is no time of day."""
        if not is_time(text):
            raise RecipeError(f"{text!r} is no time of day like 03:00, from 00:00 to 23:59")
        return cls(text, time.time())

    @property
    def told(self) -> str:
        """The time, and how long it is until then."""
        minutes = max(0, round(self.left_s / 60))
        return f"{self.time_of_day}, in {minutes // 60} h {minutes % 60:02d} min"

    @property
    def left_s(self) -> float:
        """Seconds until then; below 0 once it has passed, also while the machine slept."""
        return next_time(self.time_of_day, self.began) - self.now()
