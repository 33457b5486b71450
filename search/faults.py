"""What failed trials say of a study: when a night has to stop, and how much memory the plan may count on from now on.

Pure: records in, words or bytes out. A study that is opened again says the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from search.launcher import OUT_OF_MEMORY
from storage.records import TrialRecord

FAILURES_ALLOWED = 3  # in a row, of different recipes: more would burn the night
MISFITS_ALLOWED = 200  # suggestions in a row that do not fit the memory
MARGIN = 0.03  # below the smallest plan that ran out, the limit from then on
MIB = 2**20

CUDA_MEMORY = re.compile(r"out ?of ?memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
CAUSES = (  # what a reason says, what it is called, what to do
    (CUDA_MEMORY, "ran out of the card's memory", "lower memory_gib in [machine], or micro_batch_size or max_length"),
    (re.compile(r"\bnan\b|\binf\b"), "diverged", "lower the upper end of learning_rate in [space]"),
    (re.compile(r"^hung"), "hung", "if `dmesg` has errors of the card's driver, restart the machine"),
    (re.compile(OUT_OF_MEMORY), "were killed for want of main memory", "end what else uses it (see `free -h`)"),
)


def out_of_memory(reason: str) -> bool:
    """Whether a trial's reason is that the card's memory ran out."""
    return CUDA_MEMORY.search(reason) is not None


def in_a_row(records: Sequence[TrialRecord], known: Collection[int] = ()) -> list[TrialRecord]:
    """The trials that failed since the last one that did not, without those of the `known` numbers: of earlier nights.

    Of trials with the same recipe the last counts alone. A suggestion that does not fit counts neither way.
    """
    ended = [r for r in records if r.finished and "infeasible" not in r.user_attrs and r.number not in known]
    failed: list[TrialRecord] = []
    for record in sorted(ended, key=lambda r: -r.number):
        if record.state != "failed":
            break
        if all(record.params != other.params for other in failed):
            failed.append(record)
    return failed[::-1]


def ending(records: Sequence[TrialRecord], log: Path, known: Collection[int] = ()) -> str:
    """Why the night has to stop, with what to do about it; an empty string where it may go on."""
    failed = in_a_row(records, known)
    if len(failed) < FAILURES_ALLOWED:
        return ""
    reasons = [str(record.user_attrs.get("reason", "")) for record in failed]
    head = f"{len(failed)} trials in a row failed, each with another recipe, so the night has ended:"
    lines = [f"  trial {record.number}: {reason}" for record, reason in zip(failed, reasons, strict=True)]
    return "\n".join([head, *lines, _advice(reasons, log)])


def _advice(reasons: Sequence[str], log: Path) -> str:
    for pattern, name, remedy in CAUSES:
        if all(pattern.search(reason) for reason in reasons):
            return f"All {name}: {remedy}. Then run `nightshift start` again; {log} has more."
    return f"Read {log}, mend what it names, then run `nightshift start` again."


def ran_out_bytes(records: Sequence[TrialRecord]) -> int | None:
    """The smallest planned peak with which a trial ran out of the card's memory, above all that were completed.

    One below a plan that was completed says nothing of the plan: something else had taken the room. A trial that was
    pruned may not have come to its peak, so that it shows nothing.
    """
    fitted = _fitted_bytes(records)
    failed = [r for r in records if r.state == "failed" and out_of_memory(str(r.user_attrs.get("reason", "")))]
    return min((peak for r in failed if (peak := _planned_bytes(r)) > fitted), default=None)


def limit_bytes(limit: int | None, records: Sequence[TrialRecord]) -> int | None:
    """The memory that a later trial may plan with: `limit`, or 3 % less than the smallest plan that ran out.

    It is never below the plan of a trial that was completed. None: there is neither a limit nor a trial that ran out.
    """
    ran_out = ran_out_bytes(records)
    if ran_out is None:
        return limit
    learned = max(int(ran_out * (1.0 - MARGIN)), _fitted_bytes(records))
    return learned if limit is None else min(limit, learned)


def _fitted_bytes(records: Sequence[TrialRecord]) -> int:
    return max((_planned_bytes(record) for record in records if record.state == "complete"), default=0)


def _planned_bytes(record: TrialRecord) -> int:
    return int(record.user_attrs.get("planned_peak_mib", 0)) * MIB


def too_many_misfits(records: Sequence[TrialRecord]) -> str:
    """Why a night is over whose suggestions do not fit the memory, one after another; or an empty string."""
    last = records[-MISFITS_ALLOWED:]
    if len(last) < MISFITS_ALLOWED or any("infeasible" not in record.user_attrs for record in last):
        return ""
    return f"the last {MISFITS_ALLOWED} suggestions do not fit the memory; narrow the space (see the report)"
