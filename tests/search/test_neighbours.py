"""Who uses the card: nvidia-smi's answers, given by a program of its name, and the wait until there is room."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from search import neighbours
from search.neighbours import Neighbour, Usage, usage, wait_for_room, waited_for

GIB = 2**30
SMI = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in
  *query-gpu*) {gpu} ;;
  *) cat {folder}/apps ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An nvidia-smi that answers so; returns the file with what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(memory: str, apps: str = "", code: int = 0, gpu: str = "") -> Path:
        (tmp_path / "apps").write_text(apps)
        (tmp_path / "memory").write_text(memory)
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format(folder=tmp_path, gpu=gpu or f"cat {tmp_path}/memory; exit {code}"))
        program.chmod(0o755)
        return tmp_path / "asked"

    return make


def test_the_card_s_memory_and_who_computes_on_it(smi: Callable[..., Path]) -> None:
    me = os.getpid()
    asked = smi("12282, 3000\n", f"{me}, 8192, /usr/bin/python3\n4194303, 512, /opt/a, b/ollama runner\n")
    seen = usage()
    assert seen is not None
    assert (seen.total_bytes, seen.free_bytes) == (12282 * 2**20, 3000 * 2**20)
    user = pwd.getpwuid(os.getuid()).pw_name
    assert seen.neighbours == (
        Neighbour(me, "/usr/bin/python3", 8 * GIB, user),
        Neighbour(4194303, "/opt/a, b/ollama runner", GIB // 2),
    )
    assert str(seen.neighbours[0]) == f"process {me} (/usr/bin/python3, 8.0 GiB, user {user})"
    assert str(seen.neighbours[1]) == "process 4194303 (/opt/a, b/ollama runner, 0.5 GiB)"
    assert asked.read_text().splitlines() == [
        "--id=0 --query-gpu=memory.total,memory.free --format=csv,noheader,nounits",
        "--id=0 --query-compute-apps=pid,used_memory,process_name --format=csv,noheader,nounits",
    ]


def test_the_card_that_a_worker_may_see_is_asked_about(
    smi: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = smi("12282, 3000\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2a,1")
    assert usage() is not None
    assert asked.read_text().startswith("--id=GPU-8f2a ")


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("77, [N/A], [Not Found]", Neighbour(77, "", None)),  # of another container
        ("77, [Not Supported], /usr/bin/X", Neighbour(77, "/usr/bin/X", None)),
        ("77, 100, ", Neighbour(77, "", 100 * 2**20)),
        ("77, 100", Neighbour(77, "", 100 * 2**20)),
        ("77", Neighbour(77, "", None)),
        ("[N/A], [N/A], [Insufficient Permissions]", None),
        ("No running processes found", None),
        ("²77, 3, x", None),
    ],
)
def test_what_the_driver_leaves_out_is_not_made_up(
    smi: Callable[..., Path], line: str, known: Neighbour | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_user", lambda pid: "")
    smi("12282, 3000", line + "\n\n")
    seen = usage()
    assert seen is not None
    assert seen.neighbours == ((known,) if known else ())


@pytest.mark.parametrize(
    "memory",
    ["[N/A], [N/A]", "12282, [Not Supported]", "", "No devices were found", "12282", "1, 2, 3", "-5, 3"],
)
def test_without_figures_nothing_is_known(smi: Callable[..., Path], memory: str) -> None:
    smi(memory)
    assert usage() is None


def test_without_the_program_or_with_one_that_fails_or_hangs_nothing_is_known(
    smi: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert usage() is None
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    smi("12282, 3000", code=9)
    assert usage() is None
    smi("", gpu="exec sleep 60")
    monkeypatch.setattr(neighbours, "PATIENCE_S", 0.2)
    assert usage() is None
    (tmp_path / "nvidia-smi").write_text("no program")
    assert usage() is None


@given(st.text(), st.text())
def test_no_answer_is_too_strange(memory: str, apps: str) -> None:
    for line in [*memory.splitlines(), *apps.splitlines()]:
        found = neighbours._neighbour(line)
        assert found is None or found.pid >= 0
        assert neighbours._size(line) is None or line.strip().isdigit()


# Waiting

OTHER = Neighbour(412, "/usr/bin/blender", 9 * GIB, "anna")
OURS = Neighbour(500, "python", 2 * GIB)


def used(*who: Neighbour, more: float = 0.0) -> Usage:
    taken = sum(n.used_bytes or 0 for n in who) + int(more * GIB)
    return Usage(12 * GIB, 12 * GIB - taken, who)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (used(), ""),
        (used(Neighbour(1, "x", GIB)), ""),  # there is room beside it
        (used(OTHER), "3.0 GiB of 12.0 GiB are free; it is used by process 412 (/usr/bin/blender, 9.0 GiB, user anna)"),
        (used(OURS, OTHER, more=0.5), "2.5 GiB of 12.0 GiB are free; it is used by process 412"),
        (used(OURS), ""),  # the worker's own
        (used(more=1.0), ""),  # a desktop
        (used(more=6.0), "it is used by processes that the driver does not name (6.0 GiB)"),
        (used(Neighbour(7, "", None), more=6.0), "it is used by process 7"),
        (
            used(Neighbour(7, "a", GIB), OTHER, more=2.0),
            "process 412 (/usr/bin/blender, 9.0 GiB, user anna), process 7 (a, 1.0 GiB) and processes that the driver",
        ),
    ],
)
def test_one_waits_for_those_who_take_the_room_and_says_who_they_are(seen: Usage, said: str) -> None:
    answer = waited_for(11 * GIB, seen, ours=[500])
    assert (answer == "") == (said == "")
    assert said in answer
    if answer:
        assert answer.startswith("waiting for memory on the card: 11.0 GiB are needed, ")


def test_the_wait_ends_when_there_is_room_and_costs_half_a_minute_a_look() -> None:
    clock, said = FakeClock(), []
    looks = [used(OTHER), used(OTHER), used(OTHER, Neighbour(9, "a", GIB)), used(OTHER), used()]
    assert wait_for_room(11 * GIB, clock, lambda: None, said.append, look=lambda: looks.pop(0)) is None
    assert not looks
    assert clock.monotonic() == pytest.approx(1_000.0 + 4 * 30.0)
    assert [("process 9" in line, "process 412" in line) for line in said] == [
        (False, True),
        (True, True),
        (False, True),
    ]


def test_the_wait_ends_with_the_night_and_notices_a_signal_soon() -> None:
    clock = FakeClock()
    over = lambda: "the deadline is reached" if clock.monotonic() >= 1_100.0 else ""  # noqa: E731
    assert (
        wait_for_room(11 * GIB, clock, over, lambda text: None, look=lambda: used(OTHER)) == "the deadline is reached"
    )
    assert clock.monotonic() <= 1_100.5


def test_where_nothing_is_known_nothing_is_waited_for() -> None:
    clock = FakeClock()
    assert wait_for_room(11 * GIB, clock, lambda: None, lambda text: None, look=lambda: None) is None
    assert clock.monotonic() == 1_000.0
