"""Pure decisions over the ledger's figures: may anything start, may this go on.

No function here reads a clock, a file or a database. Seconds are GPU-seconds of the study's budget (on a machine
without a GPU: seconds of the worker's process) unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

LEASE_S = 10.0  # the most that is ever paid ahead, hence the most that a kill can overcharge
PAYMENT_S = 5.0  # paid again as soon as the lease has room for it
START_RESERVE_S = 5.0  # what must be left to begin anything, before a step has been timed


@dataclass(frozen=True)
class Standing:
    """Where an attempt stands. `spent_s` counts what is paid, used or not; `deadline_s` is what is left until then."""

    limit_s: float
    spent_s: float
    lease_left_s: float
    deadline_s: float | None
    reserve_s: float  # what the worker needs to reach the end of a step and save


@dataclass(frozen=True)
class Decision:
    """Pay `pay_s` more (0: nothing), and ask the worker to save and stop if `stop` says why."""

    pay_s: float
    stop: Literal["", "budget", "deadline"]


def decide(standing: Standing) -> Decision:
    """What to do now with a running attempt. What is paid ahead never exceeds LEASE_S, nor the limit what is spent."""
    unpaid = unpaid_s(standing.limit_s, standing.spent_s)
    due = standing.lease_left_s <= LEASE_S - PAYMENT_S
    pay = min(PAYMENT_S, unpaid) if due else 0.0
    if standing.deadline_s is not None and standing.deadline_s <= standing.reserve_s:
        return Decision(pay, "deadline")
    if max(0.0, standing.lease_left_s) + unpaid <= standing.reserve_s:
        return Decision(pay, "budget")
    return Decision(pay, "")


def unpaid_s(limit_s: float, spent_s: float) -> float:
    """What may still be paid, in whole milliseconds that are in the limit as the ledger sees it: in whole microseconds,
    rounded down. A residue of floats would not fit."""
    limit = int(Decimal(repr(float(limit_s))) * 1_000_000)
    return max(0, limit - round(1_000_000 * spent_s)) // 1000 / 1000


@dataclass(frozen=True)
class Ending:
    """Why nothing more is begun. `settled`: by another night neither, unless the study is given more."""

    why: str
    settled: bool = False


def may_start(
    limit_s: float,
    spent_s: float,
    deadline_s: float | None,
    kept_s: float = 0.0,
    reserve_s: float = START_RESERVE_S,
) -> Ending | None:
    """Why nothing more may start, or None: what starts must be able to reach a checkpoint, and leave `kept_s`."""
    if limit_s - kept_s - spent_s <= reserve_s:
        kept = f", {kept_s:.0f} s kept for the final race" if kept_s else ""
        why = f"the budget of {hours(limit_s)} GPU-hours is spent ({hours(spent_s)} used{kept})"
        return Ending(f"{why}; with a larger one it goes on", settled=True)
    if deadline_s is not None and deadline_s <= reserve_s:
        return Ending("the deadline is reached")
    return None


def reserve_s(longest_step_s: float, longest_save_s: float) -> float:
    """Seconds that a worker needs, at worst, from being asked to stop to having saved."""
    return max(START_RESERVE_S / 2, 2.0 * longest_step_s + 1.5 * longest_save_s + 1.0)


def left_s(
    finished_s: list[float], trials_left: int, unspent_s: float, running_s: float = 0.0, more_s: float = 0.0
) -> float | None:
    """Forecast of the seconds until the wanted trials, and `more_s` for what comes beside them, are done.

    Never more than the budget has left. `finished_s` are the costs of the trials that ended; before the first one there
    is no forecast (None). One that is running and has had longer than those on average is about to end.
    """
    if not finished_s:
        return None
    mean = sum(finished_s) / len(finished_s)
    return min(unspent_s, max(0.0, trials_left * mean - min(running_s, mean)) + more_s)


def hours(seconds: float) -> str:
    """Seconds as hours with enough digits to see a difference of a second or so."""
    return f"{seconds / 3600:.3f}".rstrip("0").rstrip(".")
