"""A clock that is wound by hand (see search.clock.Clock)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class FakeClock:
    """A clock that moves when it is told to; `sleep` moves it at once. `on_sleep` sees every sleep, after it."""

    wall: float = 1_800_000_000.0
    awake: float = 1_000.0
    asleep: float = 0.0
    on_sleep: Callable[[float], None] = field(default=lambda seconds: None)

    def now(self) -> float:
        """The wall clock."""
        return self.wall

    def monotonic(self) -> float:
        """Seconds awake."""
        return self.awake

    def boottime(self) -> float:
        """Seconds awake and in suspend."""
        return self.awake + self.asleep

    def sleep(self, seconds: float) -> None:
        """Let the seconds go by."""
        self.advance(seconds)
        self.on_sleep(seconds)

    def advance(self, seconds: float) -> None:
        """Seconds go by, with the machine awake."""
        self.awake += seconds
        self.wall += seconds

    def suspend(self, seconds: float) -> None:
        """The machine sleeps for so long."""
        self.asleep += seconds
        self.wall += seconds

    def set(self, wall: float) -> None:
        """Somebody, or the network, sets the wall clock."""
        self.wall = wall
