from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.clock import Clock
from train.recipe import RecipeError
from train.rundir import read_json


class Now:
    """A clock to be turned by hand."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clock.json"


@pytest.fixture
def now() -> Now:
    return Now()


def on_disk(path: Path) -> float:
    value = read_json(path)
    assert value is not None
    return float(value["spent_s"])


def test_a_lease_is_durable_before_it_is_used(path: Path, now: Now) -> None:
    clock = Clock(path, 100.0, lease_s=10.0, now=now)
    clock.start()
    assert on_disk(path) == 10.0
    assert clock.spent_s == clock.here_s == 0.0


def test_a_clean_end_refunds_what_was_not_used(path: Path, now: Now) -> None:
    clock = Clock(path, 100.0, now=now)
    clock.start()
    now.s += 3.0
    clock.close()
    assert on_disk(path) == 3.0
    assert clock.spent_s == 3.0
    now.s += 50.0
    clock.close()
    assert clock.tick()
    assert clock.here_s == 0.0
    assert on_disk(path) == 3.0


def test_nights_add_up_and_the_days_between_are_free(path: Path, now: Now) -> None:
    for night in range(3):
        clock = Clock(path, 100.0, now=now)
        assert clock.spent_s == night * 20.0
        clock.start()
        for _ in range(20):
            now.s += 1.0
            assert clock.tick()
        clock.close()
        now.s += 10_000.0
    assert Clock(path, 100.0, now=now).left_s == 40.0


def test_the_allowance_ends(path: Path, now: Now) -> None:
    clock = Clock(path, 25.0, now=now)
    clock.start()
    now.s += 24.0
    assert clock.tick()
    assert on_disk(path) == 25.0
    now.s += 1.0
    assert not clock.tick()
    assert clock.left_s == 0.0
    clock.close()
    again = Clock(path, 25.0, now=now)
    again.start()
    assert not again.tick()


def test_what_the_last_step_uses_beyond_the_allowance_is_counted(path: Path, now: Now) -> None:
    clock = Clock(path, 5.0, now=now)
    clock.start()
    now.s += 7.0
    assert not clock.tick()
    assert on_disk(path) == 7.0


@given(seconds=st.lists(st.floats(0.0, 4.9), max_size=40), lease_s=st.sampled_from([10.0, 30.0]))
def test_a_kill_overcharges_by_at_most_a_lease_and_never_undercharges(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[float], lease_s: float
) -> None:
    path, now = tmp_path_factory.mktemp("clock") / "clock.json", Now()
    clock = Clock(path, 1e6, lease_s=lease_s, now=now)
    clock.start()
    used = 0.0
    for each in seconds:
        now.s += each
        used += each
        assert used <= on_disk(path) + 1e-6  # killed just before it could pay
        clock.tick()
        assert used - 1e-6 <= on_disk(path) <= used + lease_s + 1e-6


def test_it_pays_by_itself_while_a_step_takes_longer_than_a_lease(path: Path) -> None:
    with Clock(path, 100.0, lease_s=0.05) as clock:
        deadline = time.monotonic() + 5.0
        while on_disk(path) < 0.2 and time.monotonic() < deadline:  # nobody ticks
            time.sleep(0.01)
        assert on_disk(path) >= clock.spent_s - 0.05
    assert 0.15 <= on_disk(path) == clock.spent_s


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spent_s": -1}', '{"spent_s": "x"}', '{"spent_s": NaN}'])
def test_a_damaged_clock_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"clock.json is damaged.*delete it"):
        Clock(path, 100.0)


def test_a_clock_that_cannot_be_written_says_so_and_keeps_what_was_paid(path: Path) -> None:
    with Clock(path, 100.0, lease_s=0.05) as clock:
        staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        staged.mkdir()  # as good as a full disk
        give_up = time.monotonic() + 10
        while clock.unwritten is None:
            assert time.monotonic() < give_up
            time.sleep(0.005)
        paid_s = on_disk(path)
        staged.rmdir()
        give_up = time.monotonic() + 10
        while on_disk(path) == paid_s:  # it goes on trying
            assert time.monotonic() < give_up
            time.sleep(0.005)
    assert on_disk(path) == clock.spent_s
