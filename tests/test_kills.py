"""Twenty times kill -9 of the service, the worker or both, at random instants of a rehearsal (`make test-slow`)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from search import view
from search.budget import LEASE_S
from storage import db
from storage.ledger import Attempt, Holder, Ledger, alive
from train.rehearsal import make_world
from train.rundir import RunDir, read_json

KILLS = 20
CLOCKS_S = 1.0  # between the kill and the time that this test writes down for it


@dataclass(frozen=True)
class Kill:
    at: float  # time.time()
    target: str


def rehearse(home: Path, log: Path) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        arguments = [sys.executable, "-m", "search.cli", "rehearse", "--home", str(home)]
        return subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def worker_of(folder: Path) -> Holder | None:
    order = read_json(folder / "runs" / "assignment.json")
    return order and Holder(order["host"], order["boot_id"], order["pid"], order["pid_started"])


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until_gone(holder: Holder, seconds: float = 5.0) -> None:
    give_up = time.monotonic() + seconds
    while alive(holder):
        assert time.monotonic() < give_up, f"the worker {holder.pid} outlived its service"
        time.sleep(0.01)


def kill_at_random(home: Path, log: Path, dice: random.Random) -> list[Kill]:
    """Start the rehearsal again and again, and kill it until it was killed KILLS times or is done."""
    folder, kills = home / "studies" / "rehearsal", []
    process = rehearse(home, log)
    while len(kills) < KILLS:
        try:
            process.wait(dice.uniform(2.0, 18.0))
        except subprocess.TimeoutExpired:
            pass
        else:
            break
        target, worker = dice.choice(["service", "worker", "both"]), worker_of(folder)
        kills.append(Kill(time.time(), target))
        if target in ("worker", "both") and worker and alive(worker):
            kill(worker.pid)
        if target in ("service", "both"):
            process.kill()
            process.wait()
            if worker:
                wait_until_gone(worker)
            process = rehearse(home, log)
    assert process.wait() == 0, log.read_text()[-2000:]
    return kills


def overcharge(attempt: Attempt, kills: list[Kill]) -> float:
    """Seconds charged to an attempt that never said how it ended, beyond the kill that ended it."""
    opened = attempt.opened_at.timestamp()
    ended = min(k.at for k in kills if k.at >= opened and k.target != "worker")
    return attempt.charged_s - (ended - opened)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [int(os.environ.get("KILL_SEED", "0"))])
def test_twenty_random_kills_lose_nothing_and_overcharge_at_most_a_lease_each(seed: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_world(home / "world", 0)  # it takes longer than most stretches between two kills
    kills = kill_at_random(home, tmp_path / "log", random.Random(seed))
    folder = home / "studies" / "rehearsal"

    study = view.read(folder)
    assert [t.number for t in study.trials] == list(range(len(study.trials)))
    assert {t.state for t in study.trials} <= {"complete", "pruned"}
    assert len(study.trials) == study.trials_wanted
    for trial in study.trials:
        result = read_json(RunDir(folder / "runs" / f"{trial.number:03d}").result)
        assert result is not None
        assert result["outcome"] == ("completed" if trial.state == "complete" else "pruned")
    ledger = Ledger(db.read_only_engine(folder / "study.db"))
    assert not ledger.open_attempts()
    ended = [a for a in ledger.attempts() if a.outcome in ("completed", "pruned") and a.trial is not None]
    assert len({a.trial for a in ended}) == len(ended), "a trial was counted twice"
    over = [overcharge(a, kills) for a in ledger.attempts() if a.outcome == "abandoned"]
    assert all(-CLOCKS_S <= seconds <= LEASE_S + CLOCKS_S for seconds in over), over
    assert study.spent_s <= study.budget_s
    assert (folder / "final" / "result.json").exists()
    sys.stdout.write(
        f"{len(kills)} kills {datetime.now():%Y-%m-%d}: {len(over)} attempts abandoned, overcharged by at most "
        f"{max(over, default=0):.1f} s each; {sum(t.attempts for t in study.trials)} attempts for "
        f"{len(study.trials)} trials\n"
    )
