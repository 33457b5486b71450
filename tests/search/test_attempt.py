"""One attempt under a clock that is wound by hand: real ledger, real RunDir, and a worker that obeys its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_clock import FakeClock

from search import attempt, launcher, neighbours
from search.attempt import OVERDUE_S, Asked, Watching
from search.clock import Deadline
from search.errors import WorkerFailed
from search.launcher import Worker
from search.lease import LAPSED
from search.silence import Silence
from storage import db
from storage.ledger import Holder, Ledger
from train.rundir import Json, RunDir, read_json, write_json

STEP_S = 2.0
LIMIT_S = 1e6


class FakeWorker:
    """Makes a step every two awake seconds, saves when it is asked to stop, and ends itself when its lease lapses."""

    def __init__(self, run: RunDir, clock: FakeClock, steps: int, act: Callable[[FakeWorker], None]) -> None:
        self.run, self.clock, self.steps, self.act = run, clock, steps, act
        self.holder = Holder.of_process(os.getpid())
        self.made, self.code, self.obeys, self.killed = 0, None, True, False
        self.seconds_before, self.ending = 0.0, ("completed", "")
        clock.on_sleep = self._live

    def assign(self, run: str, attempt: int) -> None:
        self.attempt, self.began = attempt, self.clock.monotonic()
        self.run.append_event({"event": "data"})

    def exit_code(self) -> int | None:
        return self.code

    def how_it_ended(self) -> str:
        return "killed by SIGKILL" if self.killed else f"exit code {self.code}"

    def kill(self) -> None:
        self.killed, self.code = True, -9

    def write_step(self) -> None:
        self.made += 1
        seconds = self.seconds_before + self.clock.monotonic() - self.began
        self.run.append_event({"event": "step", "step": self.made, "loss": 1.0, "seconds": seconds})

    def _live(self, _: float) -> None:
        if self.code is not None:
            return
        lease = read_json(self.run.lease)
        assert lease is not None
        if self.clock.monotonic() > lease["paid_until"]:
            self.code = LAPSED
        elif self.clock.monotonic() - self.began >= STEP_S * (self.made + 1):
            self.act(self)
            if self.obeys:
                self._step()

    def _step(self) -> None:
        self.write_step()
        if self.run.stop.exists():
            self._result("stopped")
        elif self.made == self.steps:
            self._result(*self.ending)

    def _result(self, outcome: str, reason: str = "") -> None:
        result = {"attempt": self.attempt, "outcome": outcome, "reason": reason, "score": None, "seconds": {}}
        write_json(self.run.result, result)


class Bench:
    """An attempt that can be watched, and what came of it."""

    def __init__(self, folder: Path, steps: int = 12, act: Callable[[FakeWorker], None] = lambda worker: None) -> None:
        self.clock = FakeClock()
        self.run = RunDir(folder / "000")
        self.run.path.mkdir()
        self.engine = db.open_database(folder / "study.db")
        self.ledger = Ledger(self.engine)
        self.worker = FakeWorker(self.run, self.clock, steps, act)
        self.asked = Asked()

    def watch(self, **values: object) -> Json | None:
        opened = self.ledger.open_attempt(0, "000", self.worker.holder, 10.0, LIMIT_S)
        watching = Watching(
            run=self.run,
            worker=self.worker,  # type: ignore[arg-type]
            ledger=self.ledger,
            attempt=opened,
            limit_s=LIMIT_S,
            spent_s=self.ledger.spent_s(),
            asked=self.asked,
            judge=lambda fraction, bits: True,
            show=lambda *, force=False: None,
            clock=self.clock,
            **{"deadline": None, **values},  # type: ignore[arg-type]
        )
        result = watching.until_over({"kind": "trial"})
        (self.attempt,) = self.ledger.attempts()
        return result


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(attempt, "POLL_S", 0.5)  # fewer looks in the same time
    made: list[Bench] = []

    def make(**values: object) -> Bench:
        made.append(Bench(tmp_path, **values))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()


def at_step(step: int, act: Callable[[FakeWorker], None]) -> Callable[[FakeWorker], None]:
    return lambda worker: act(worker) if worker.made == step else None


# Clocks


@pytest.mark.parametrize(
    "act",
    [
        lambda worker: None,
        lambda worker: worker.clock.set(worker.clock.now() + 86_400.0),
        lambda worker: worker.clock.set(worker.clock.now() - 86_400.0),
        lambda worker: worker.clock.set(0.0),
        lambda worker: worker.clock.suspend(5 * 3600.0),
    ],
)
def test_what_is_charged_are_the_awake_seconds_whatever_the_clock_shows(
    bench: Callable[..., Bench], act: Callable[[FakeWorker], None]
) -> None:
    here = bench(act=at_step(5, act))
    result = here.watch()
    assert result is not None
    assert (result["outcome"], here.worker.made) == ("completed", 12)
    assert here.attempt.charged_s == pytest.approx(12 * STEP_S, abs=1.0)


def test_a_night_that_slept_past_its_deadline_saves_at_once(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(5, lambda worker: worker.clock.suspend(9 * 3600.0)))
    result = here.watch(deadline=here.clock.now() + 4 * 3600.0)
    assert result is not None
    assert (result["outcome"], result["reason"]) == ("stopped", "the deadline is reached")
    assert 6 <= here.worker.made <= 8


def test_the_deadline_holds_when_the_clock_is_set(bench: Callable[..., Bench]) -> None:
    here = bench(steps=100_000, act=at_step(5, lambda worker: worker.clock.set(worker.clock.now() + 2 * 3600.0)))
    deadline = Deadline.after_now("03:00", here.clock)
    here.clock.set(deadline.reading(here.clock) - 2 * 3600.0 - 40.0)
    deadline = Deadline.after_now("03:00", here.clock)
    result = here.watch(deadline=deadline)
    assert result is not None
    assert result["outcome"] == "stopped"
    assert 0.0 <= deadline.left_s(here.clock) < 10.0


def test_going_on_is_not_taken_for_one_long_step(bench: Callable[..., Bench]) -> None:
    here = bench()
    here.worker.seconds_before = 900.0  # of an earlier attempt
    result = here.watch(deadline=here.clock.now() + 300.0)
    assert result is not None
    assert result["outcome"] == "completed"


# Hangs


def hang(worker: FakeWorker) -> None:
    worker.obeys = False


def test_a_trial_that_hangs_is_ended_with_its_reason_and_charged(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, hang))
    result = here.watch(hang_s=30.0)
    assert here.worker.killed
    assert result is not None
    assert (result["outcome"], result["reason"]) == ("failed", "hung: no step for 0.5 minutes at step 7")
    assert result["broken"]  # a new worker is due
    assert read_json(here.run.result) == {"attempt": here.attempt.id, **result}  # told again after a kill
    assert (here.attempt.outcome, here.attempt.reason) == ("failed", result["reason"])
    assert here.attempt.charged_s == pytest.approx(7 * STEP_S + 30.0, abs=5.0)


def test_a_suspended_machine_or_a_stopped_service_is_no_hang(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, lambda worker: worker.clock.suspend(3600.0)))
    assert (here.watch(hang_s=30.0) or {})["outcome"] == "completed"


def test_a_service_that_stood_still_finds_that_the_lease_lapsed(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, lambda worker: worker.clock.advance(3600.0)))
    assert here.watch(hang_s=30.0) is None
    assert here.attempt.outcome == "lapsed"
    assert not here.worker.killed
    assert here.attempt.charged_s <= 7 * STEP_S + 20.0


def test_answers_that_are_kept_are_signs_of_life(bench: Callable[..., Bench]) -> None:
    def answer(worker: FakeWorker) -> None:
        if worker.made < 5:
            return
        if worker.made == 5:
            worker.write_step()
            worker.run.append_event({"event": "phase", "phase": "score"})
        worker.obeys = False
        if worker.clock.monotonic() < worker.began + 100.0:
            with open(worker.run.answers(0), "a") as file:
                file.write("{}\n")

    here = bench(act=answer)
    result = here.watch(hang_s=30.0)
    assert result is not None
    assert result["reason"] == "hung: no answer for 0.5 minutes at step 6"
    assert 110.0 <= here.attempt.charged_s <= 140.0


FETCHES = """
import os, sys
for line in sys.stdin:
    with open(sys.argv[1], "ab") as file:
        file.write(bytes(8192))
        file.flush()
        os.fsync(file.fileno())
    print("fetched", flush=True)
"""


def test_a_base_model_that_is_still_being_fetched_is_a_sign_of_life_while_it_is_loaded(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", FETCHES, str(tmp_path / "model")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        clock = FakeClock()
        silence = Silence(RunDir(tmp_path), child.pid, 60.0, clock)
        for phase, expected in (("load", False), ("train", True)):
            if phase == "train":
                silence.heard({"event": "step", "step": 1})
            for _ in range(20):
                child.stdin.write(b"more\n")
                child.stdin.flush()
                child.stdout.readline()
                clock.advance(4.0)
                silence.too_long()
            assert silence.too_long() == expected
        child.stdin.close()


def test_a_result_at_the_last_moment_counts(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, hang))
    here.worker.kill = lambda: here.worker._result("completed")  # type: ignore[method-assign]
    assert (here.watch(hang_s=30.0) or {})["outcome"] == "completed"


def test_a_worker_that_does_not_stop_at_the_deadline_is_ended(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, hang))
    deadline = here.clock.now() + 25.0
    assert here.watch(deadline=deadline) is None
    assert here.worker.killed
    assert OVERDUE_S - 1.0 < here.clock.now() - deadline < OVERDUE_S + 2.0
    assert here.attempt.outcome == "died"
    assert here.attempt.reason.startswith("the deadline is reached, and it had not stopped after 6")


def test_asked_twice_it_ends_at_once(bench: Callable[..., Bench]) -> None:
    here = bench(act=at_step(7, lambda worker: setattr(here.asked, "times", 2)))
    assert here.watch() is None
    assert here.attempt.reason == "it was asked twice to stop"


# Out of memory

GIB = 2**30
OTHER = neighbours.Neighbour(412, "blender", 9 * GIB)


@pytest.mark.parametrize(
    ("usage", "needed", "blamed"),
    [
        (neighbours.Usage(12 * GIB, 3 * GIB, (OTHER,)), 10 * GIB, True),
        (neighbours.Usage(24 * GIB, 15 * GIB, (OTHER,)), 10 * GIB, False),  # there was room for what was planned
        (neighbours.Usage(12 * GIB, 11 * GIB, ()), 10 * GIB, False),
        (None, 10 * GIB, False),
        (neighbours.Usage(12 * GIB, 3 * GIB, (OTHER,)), 0, False),  # on the CPU
    ],
)
def test_memory_that_others_took_is_no_fault_of_the_trial(
    bench: Callable[..., Bench],
    usage: neighbours.Usage | None,
    needed: int,
    blamed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "usage", lambda: usage)
    reason = "OutOfMemory: out of memory after step 3 of 12 (CUDA out of memory)"
    here = bench(steps=3, act=at_step(2, lambda worker: setattr(worker, "ending", ("failed", reason))))
    result = here.watch(needed_bytes=needed)
    if blamed:
        assert result is None
        assert not here.run.result.exists()  # so that it goes on
        assert here.worker.killed
        assert here.attempt.reason.startswith("out of memory; waiting for memory on the card: 10.0 GiB are needed")
        assert here.attempt.reason.endswith("it is used by process 412 (blender, 9.0 GiB)")
    else:
        assert (result or {})["reason"] == here.attempt.reason == reason
        assert not here.worker.killed


# Real processes


@contextmanager
def process(runs: Path, code: str) -> Iterator[Worker]:
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield Worker(runs, child, "token")
    finally:
        child.kill()
        child.wait()


SLEEPS = "import time; time.sleep(600)"


def test_a_real_process_that_hangs_is_gone_afterwards(bench: Callable[..., Bench], tmp_path: Path) -> None:
    here = bench()
    here.clock.on_sleep = lambda seconds: None
    with process(tmp_path, SLEEPS) as worker:
        here.worker = worker  # type: ignore[assignment]
        result = here.watch(hang_s=30.0)
        assert result is not None
        assert "hung: no sign of loading" in result["reason"]
        assert worker.exit_code() == -9


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("oom_kill 3\n", "oom_kill 4\n", "killed by SIGKILL, by the kernel for want of main memory"),
        ("oom_kill 3\n", "oom_kill 3\n", "killed by SIGKILL, not by the kernel's out-of-memory killer"),
        ("nr_free_pages 3\n", "nr_free_pages 3\n", "killed by SIGKILL, perhaps for want of memory"),
        (None, None, "killed by SIGKILL, perhaps for want of memory"),
    ],
)
def test_a_death_by_the_kernel_is_told_from_another(
    before: str | None, after: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(launcher, "VMSTAT", counters)
    if before:
        counters.write_text(before)
    with process(tmp_path, "import os; os.kill(os.getpid(), 9)") as worker:
        if after:
            counters.write_text(after)
        assert worker.how_it_ended() == said


def test_what_a_worker_ended_with_is_in_the_ledger(bench: Callable[..., Bench], tmp_path: Path) -> None:
    here = bench()
    with process(tmp_path, "raise SystemExit(3)") as worker:
        worker.how_it_ended()
        here.worker = worker  # type: ignore[assignment]
        here.clock.on_sleep = lambda seconds: None
        assert here.watch() is None
    assert (here.attempt.outcome, here.attempt.reason) == ("died", "exit code 3")


def test_a_process_that_cannot_be_ended_asks_for_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "kill_group", lambda pid: None)  # as the kernel does for one that waits for a driver
    monkeypatch.setattr(launcher, "KILL_PATIENCE_S", 0.05)
    with process(tmp_path, SLEEPS) as worker, pytest.raises(WorkerFailed, match=r"driver hangs.*restart the machine"):
        worker.kill()
