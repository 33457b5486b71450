"""How far a run is, as its checkpoints record it, and which held-out loss was the lowest so far. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from train.horizon import Decision
from train.rundir import Json

CLEARLY = 1.005  # a held-out loss that is this many times the lowest has risen
TURNED = 2  # so many of them in a row mean that it has turned


@dataclass(frozen=True)
class Position:
    """Steps done, tokens seen, process seconds used, and the bits per byte of the rungs passed.

    Of a run whose end is decided on the way also the decisions in force (see train.horizon), and the step that measured
    `best_value`, the lowest, whose checkpoint is kept; `worse` measurements in a row since then were clearly higher.
    `back_to` is the step to which the supervised stage went back at its end, or 0.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rungs: dict[str, float] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    best_step: int = 0
    best_value: float = 0.0
    worse: int = 0
    back_to: int = 0

    @classmethod
    def of(cls, value: Json) -> Position:
        """As it was written down."""
        decisions = tuple(Decision(**each) for each in value["decisions"])
        return cls(**{**value, "decisions": decisions})

    def measured(self, bits_per_byte: float) -> Position:
        """With the held-out loss of this step compared with the lowest."""
        if not self.best_step or bits_per_byte < self.best_value:
            return replace(self, best_step=self.step, best_value=bits_per_byte, worse=0)
        return replace(self, worse=self.worse + 1 if bits_per_byte > CLEARLY * self.best_value else 0)

    @property
    def has_risen(self) -> bool:
        """Whether the held-out loss was clearly higher than the lowest when it was measured last."""
        return self.worse > 0

    @property
    def has_turned(self) -> bool:
        """Whether it was so often enough to go no further."""
        return self.worse >= TURNED
