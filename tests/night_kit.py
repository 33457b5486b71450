"""A service at work on a small real study, watched, interrupted and killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from search import config, loop, view
from storage import db
from storage.ledger import Ledger
from train.rundir import read_json


def work(study_file: Path, folder: Path, observe: Callable[[view.StudyView], None] = lambda _: None, **values) -> str:
    loaded = config.load(study_file)
    arguments = {"deadline": None, "until": None, "budget_s": 3600 * loaded.study.budget_hours, **values}
    return loop.run(loaded, folder, observe=observe, **arguments)


def ledger(folder: Path) -> Ledger:
    return Ledger(db.read_only_engine(folder / "study.db"))


class Interrupt:
    """Calls `act` once, as soon as `when` holds of what the observer sees."""

    def __init__(self, when: Callable[[view.StudyView], bool], act: Callable[[view.StudyView], None]) -> None:
        self._when, self._act, self.done = when, act, False

    def __call__(self, study: view.StudyView) -> None:
        if not self.done and self._when(study):
            self.done = True
            self._act(study)


def training(study: view.StudyView) -> bool:
    return study.activity is not None and study.activity.trial is not None and study.activity.phase == "train"


def worker_pid(study: view.StudyView) -> int:
    order = read_json(study.folder / "runs" / "assignment.json")
    assert order is not None
    return int(order["pid"])


class started:
    """`nightshift start` as a process of its own, ended with its worker if it is still there."""

    def __init__(self, study_file: Path, home: Path) -> None:
        code = (
            "import sys, pathlib; from search import config, loop; c = config.load(pathlib.Path(sys.argv[1])); "
            "loop.run(c, pathlib.Path(sys.argv[2]), deadline=None, until=None, budget_s=3600, observe=lambda v: None)"
        )
        arguments = [sys.executable, "-c", code, str(study_file), str(home / "tiny")]
        self.process = subprocess.Popen(arguments, start_new_session=True)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        threading.Event().wait(0.05)
