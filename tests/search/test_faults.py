"""When failed trials end a night, and what an out-of-memory teaches the plan: tables over records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.faults import MARGIN, ending, in_a_row, limit_bytes, out_of_memory, ran_out_bytes
from storage.records import TrialRecord

MIB = 2**20
LOG = Path("worker.log")
OOM = "OutOfMemory: out of memory after step 3 of 100 (CUDA out of memory): lower micro_batch_size (1)"
NAN = "TrainingFailed: loss nan with gradient norm nan at step 3 of 100 (sft), learning rate 0.1"
HUNG = "hung: no step for 20 minutes at step 3"
KILLED = (
    "its process died 5 times (killed by SIGKILL, by the kernel for want of main memory) without reaching another "
    "checkpoint or answer"
)


def record(number: int, state: Any, reason: str = "", peak: int | None = None, **params: Any) -> TrialRecord:
    attributes: dict[str, Any] = {"reason": reason} if reason else {}
    if state == "infeasible":
        attributes, state = {"infeasible": "too large"}, "pruned"
    if peak is not None:
        attributes["planned_peak_mib"] = peak
    return TrialRecord(
        number, number, state, None, params or {"rank": number}, attributes, {}, {}, started=None, ended=None
    )


def records(states: str) -> list[TrialRecord]:
    """C complete, P pruned, F failed, S failed with the same recipe as all S, X does not fit, R running, W waiting."""
    known = {"C": "complete", "P": "pruned", "F": "failed", "S": "failed", "X": "infeasible", "R": "running"}
    return [
        record(number, known.get(state, "waiting"), NAN, **({"rank": 1000} if state == "S" else {}))
        for number, state in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("states", "failed"),
    [
        ("", []),
        ("FF", [0, 1]),
        ("CFFF", [1, 2, 3]),
        ("FFCF", [3]),
        ("FFPF", [3]),
        ("FXFXXF", [0, 2, 5]),  # what does not fit is no end of a row
        ("FFFRW", [0, 1, 2]),
        ("SSS", [2]),  # one recipe, three times
        ("SFSF", [1, 2, 3]),
    ],
)
def test_failures_in_a_row_are_of_different_recipes(states: str, failed: list[int]) -> None:
    assert [r.number for r in in_a_row(records(states))] == failed
    assert (ending(records(states), LOG) != "") == (len(failed) >= 3)


def test_what_failed_in_earlier_nights_does_not_end_this_one() -> None:
    assert ending(records("FFF"), LOG, known=[0, 1, 2]) == ""
    assert ending(records("FFFFF"), LOG, known=[0, 1, 2]) == ""
    assert ending(records("FFFFFF"), LOG, known=[0, 1, 2]).startswith("3 trials in a row")


@pytest.mark.parametrize(
    ("reasons", "advice"),
    [
        (
            [OOM, OOM, "OutOfMemoryError: CUDA out of memory. Tried to"],
            "All ran out of the card's memory: lower memory_gib",
        ),
        ([NAN] * 3, r"All diverged: lower the upper end of learning_rate in \[space\]"),
        ([HUNG] * 3, r"All hung: if `dmesg` has errors of the card's driver, restart the machine"),
        ([KILLED] * 3, r"All were killed for want of main memory: end what else uses it"),
        ([OOM, NAN, HUNG], r"Read worker.log, mend what it names, then run `nightshift start` again"),
        (["", "ValueError: x", OOM], r"Read worker.log"),
    ],
)
def test_the_explanation_names_every_trial_and_what_to_do(reasons: list[str], advice: str) -> None:
    said = ending([record(n, "failed", reason) for n, reason in enumerate(reasons)], LOG)
    head, *lines, last = said.splitlines()
    assert head == "3 trials in a row failed, each with another recipe, so the night has ended:"
    assert lines == [f"  trial {n}: {reason}" for n, reason in enumerate(reasons)]
    assert re.search(advice, last)


@pytest.mark.parametrize(
    ("reason", "ran_out"),
    [
        (OOM, True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("AcceleratorError: CUDA error: out of memory", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        (NAN, False),
        (KILLED, False),  # main memory, which the plan does not count
        ("", False),
    ],
)
def test_an_out_of_memory_is_known_by_its_reason(reason: str, ran_out: bool) -> None:
    assert out_of_memory(reason) == ran_out


@pytest.mark.parametrize(
    ("found", "ran_out", "limit"),
    [
        ([], None, 12_000),
        ([record(0, "failed", OOM, 11_000)], 11_000, 10_670),
        ([record(0, "failed", OOM, 11_000), record(1, "failed", OOM, 10_000)], 10_000, 9_700),
        ([record(0, "failed", NAN, 9_000)], None, 12_000),
        ([record(0, "failed", OOM, 9_000), record(1, "complete", "", 11_000)], None, 12_000),  # a neighbour's doing
        ([record(0, "failed", OOM, 10_000), record(1, "complete", "", 9_900)], 10_000, 9_900),  # this much does fit
        (
            [record(0, "failed", OOM, 10_000), record(1, "pruned", "", 11_000)],
            10_000,
            9_700,
        ),  # before its peak, perhaps
        ([record(0, "failed", OOM)], None, 12_000),
    ],
)
def test_the_plan_learns_from_an_out_of_memory(found: list[TrialRecord], ran_out: int | None, limit: int) -> None:
    assert ran_out_bytes(found) == (None if ran_out is None else ran_out * MIB)
    assert limit_bytes(12_000 * MIB, found) == limit * MIB
    assert limit_bytes(None, found) == (None if ran_out is None else limit * MIB)


trials = st.lists(
    st.tuples(st.sampled_from(["complete", "failed", "pruned"]), st.sampled_from([OOM, NAN]), st.integers(1, 16_000)),
    max_size=12,
)


@given(trials, st.integers(1, 16_000))
def test_the_limit_only_falls_and_keeps_what_was_seen_to_fit(found: list[tuple[str, str, int]], limit: int) -> None:
    made = [record(n, state, reason, peak) for n, (state, reason, peak) in enumerate(found)]
    learned = limit_bytes(limit * MIB, made)
    assert learned is not None
    assert learned <= limit * MIB
    fitted = max((peak for state, _, peak in found if state == "complete"), default=0)
    assert learned >= min(limit, fitted) * MIB
    if (ran_out := ran_out_bytes(made)) is not None:
        assert learned < ran_out
        assert learned >= min(limit * MIB, int(ran_out * (1 - MARGIN)))
