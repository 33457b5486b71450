"""Which held-out loss was the lowest, and whether it has risen since."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from train.horizon import Decision
from train.position import Position


def after(*values: float) -> Position:
    """A position whose steps 1, 2, ... measured these."""
    at = Position()
    for step, value in enumerate(values, start=1):
        at = replace(at, step=step).measured(value)
    return at


@pytest.mark.parametrize(
    ("values", "best", "risen", "turned"),
    [
        ((2.0,), 1, False, False),
        ((2.0, 1.0), 2, False, False),
        ((2.0, 1.0, 1.004), 2, False, False),  # by less than what counts
        ((2.0, 1.0, 1.006), 2, True, False),
        ((2.0, 1.0, 1.006, 1.007), 2, True, True),
        ((2.0, 1.0, 1.006, 1.004, 1.006), 2, True, False),  # not twice in a row
        ((2.0, 1.0, 1.006, 0.9), 4, False, False),
    ],
)
def test_a_loss_has_risen_where_the_last_one_is_clearly_higher(
    values: tuple[float, ...], best: int, risen: bool, turned: bool
) -> None:
    at = after(*values)
    assert (at.best_step, at.has_risen, at.has_turned) == (best, risen, turned)


def test_it_is_read_as_it_was_written() -> None:
    at = replace(after(2.0, 3.0), decisions=(Decision(0, 4, 4), Decision(1, 3, 3, "pace")), rungs={"0.5": 2.0})
    assert Position.of({**asdict(at), "decisions": [asdict(decision) for decision in at.decisions]}) == at
