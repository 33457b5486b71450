"""What a training loop tells, and asks, whoever looks on. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepFacts:
    """One optimizer step. `step` counts from 1 over the whole run; `loss` is the stage's own (nats a token, or DPO's).

    `seconds` and `tokens` are the run's so far: process seconds without downtime, and tokens without padding. `left_s`
    forecasts the seconds of training that are left (see train.forecast), None while nothing is known of them.
    """

    stage: str
    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    tokens: int
    left_s: float | None = None


class Watch(Protocol):
    """Whoever looks on. Called from the training thread."""

    def begins(self, step: int, damaged: Sequence[str]) -> None:
        """The attempt goes on from the checkpoint of `step`, 0 where there is none that verifies; newer ones did not:
        their names."""

    def step(self, facts: StepFacts) -> None:
        """An optimizer step is done."""

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """A rung is measured; False prunes the run. After a kill the same rung may come again, with the same value."""

    def should_stop(self) -> bool:
        """Asked after every step but the last; True ends this attempt with a checkpoint."""


class Unwatched:
    """A watch that lets a run go on to its end."""

    def begins(self, step: int, damaged: Sequence[str]) -> None:
        """Nothing to do."""

    def step(self, facts: StepFacts) -> None:
        """Nothing to do."""

    def rung(self, fraction: float, step: int, bits_per_byte: float) -> bool:
        """Go on."""
        return True

    def should_stop(self) -> bool:
        """Go on."""
        return False
