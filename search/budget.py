"""Pure decisions over the ledger's figures: may this start, may this go on, what still fits.

No function here reads a clock, a file or a database. Seconds are GPU-seconds of the study's budget (on a machine
without a GPU: seconds of the worker's process) unless a name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from search.cost import Estimate

LEASE_S = 10.0  # the most that is ever paid ahead, hence the most that a kill can overcharge
PAYMENT_S = 5.0  # paid again as soon as the lease has room for it
START_RESERVE_S = 5.0  # what must be left to begin anything, before a step has been timed
MARGIN_SDS = 1.0  # how many standard deviations dearer than expected a trial may get and still be paid to its end...
MOST_MARGIN = 1.25  # ...but no dearer than this: where little is known, it is no reason to start nothing


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
    """What may still be paid, in whole milliseconds: the ledger rounds up, so a residue of floats would not fit."""
    return max(0, math.floor(1000 * (limit_s - spent_s) + 1e-6)) / 1000


def may_start(limit_s: float, spent_s: float, deadline_s: float | None, reserve_s: float = START_RESERVE_S) -> str:
    """Why nothing more may start, or an empty string: what starts must be able to reach a checkpoint."""
    if limit_s - spent_s <= reserve_s:
        return f"the budget of {hours(limit_s)} GPU-hours is spent ({hours(spent_s)} used)"
    if deadline_s is not None and deadline_s <= reserve_s:
        return "the deadline is reached"
    return ""


@dataclass(frozen=True)
class Need:
    """What a trial needs: GPU-seconds to its end, and seconds until it has a checkpoint from which it can go on."""

    whole_s: float
    checkpoint_s: float

    @classmethod
    def of(cls, estimate: Estimate, steps: int) -> Need:
        """Of a trial of so many steps: its whole cost with the margin; data, two steps and saving for a checkpoint."""
        parts, margin = estimate.by_cause, min(MOST_MARGIN, math.exp(MARGIN_SDS * estimate.sd_log))
        first_s = sum(seconds for cause, seconds in parts.items() if cause in ("load", "data", "overhead"))
        saved_s = first_s + 2 * parts.get("train", 0.0) / max(1, steps) + parts.get("save", 0.0)
        return cls(margin * estimate.seconds, margin * saved_s)


def misses(need: Need, left_s: float, deadline_s: float | None, reserve_s: float = START_RESERVE_S) -> str:
    """Why a trial is not started now, or an empty string.

    The budget has to pay for all of it. The night only has to last to its first checkpoint: the next one goes on.
    """
    if need.whole_s > left_s:
        return f"it may take {need.whole_s:.0f} s, and the budget has {max(0.0, left_s):.0f} s left"
    if deadline_s is not None and need.checkpoint_s + reserve_s > deadline_s:
        return (
            f"it needs {need.checkpoint_s + reserve_s:.0f} s to a checkpoint, and the deadline is in "
            f"{max(0.0, deadline_s):.0f} s"
        )
    return ""


def fits(need: Need, left_s: float, deadline_s: float | None, reserve_s: float = START_RESERVE_S) -> bool:
    """Whether a trial may start."""
    return not misses(need, left_s, deadline_s, reserve_s)


def first_fitting(
    needs: Iterable[Need], left_s: float, deadline_s: float | None, reserve_s: float = START_RESERVE_S
) -> int | None:
    """The place of the first that may start, in the order in which the sampler prefers them; None where none may."""
    return next((place for place, need in enumerate(needs) if fits(need, left_s, deadline_s, reserve_s)), None)


def too_little(
    limit_s: float, spent_s: float, deadline_s: float | None, smallest: Need, reserve_s: float = START_RESERVE_S
) -> str:
    """Why not even the smallest trial of a space can start, and what to raise, and to how much; or an empty string."""
    left_s = limit_s - spent_s
    if smallest.whole_s > left_s:
        least = math.ceil(1000 * (spent_s + smallest.whole_s) / 3600) / 1000
        used = f", {hours(spent_s)} of them used," if spent_s > 0 else ""
        return (
            f"the budget of {hours(limit_s)} GPU-hours{used} leaves {max(0.0, left_s):.0f} s, and the smallest trial "
            f"of this space may take {smallest.whole_s:.0f} s: raise budget_hours in [study], or --budget, "
            f"to {least:g} or more"
        )
    least_s = smallest.checkpoint_s + reserve_s
    if deadline_s is not None and deadline_s < least_s:
        when = f"is {deadline_s:.0f} s away" if deadline_s > 0 else "has passed"
        return (
            f"the deadline {when}, and the smallest trial of this space needs {least_s:.0f} s to its first checkpoint: "
            "give a later until in [study], or --until"
        )
    return ""


def reserve_s(longest_step_s: float, longest_save_s: float) -> float:
    """Seconds that a worker needs, at worst, from being asked to stop to having saved."""
    return max(START_RESERVE_S / 2, 2.0 * longest_step_s + 1.5 * longest_save_s + 1.0)


def left_s(finished_s: list[float], trials_left: int, unspent_s: float, running_s: float = 0.0) -> float | None:
    """Forecast of the seconds until the wanted trials are done, never more than the budget has left.

    `finished_s` are the costs of the trials that ended; before the first one there is no forecast (None).
    """
    if not finished_s:
        return None
    mean = sum(finished_s) / len(finished_s)
    return min(unspent_s, max(0.0, trials_left * mean - running_s))


def hours(seconds: float) -> str:
    """Seconds as hours with enough digits to see a difference of a second or so."""
    return f"{seconds / 3600:.3f}".rstrip("0").rstrip(".")
