"""How long the phases of one call of `train` take. No torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseSeconds:
    """Seconds by phase. A phase inside another counts for itself alone."""

    def __init__(self) -> None:
        self.by_phase = dict.fromkeys(("data", "train", "probe", "save"), 0.0)
        self._begun = time.monotonic()

    def total(self) -> float:
        """Seconds since this object was made."""
        return time.monotonic() - self._begun

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block."""
        begun, before = time.monotonic(), sum(self.by_phase.values())
        try:
            yield
        finally:
            within = sum(self.by_phase.values()) - before
            self.by_phase[name] += time.monotonic() - begun - within
