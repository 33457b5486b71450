"""How a study's record bears 10,000 finished trials: status, ask, tell, start-up, dashboard, report, size.

    python benchmarks/scale.py [HOME]      HOME: a finished rehearsal's folder; without one, a rehearsal is run first

Studies of 100, 1,000 and 10,000 trials are grown from the rehearsal's (benchmarks/scale_study.py). Whatever is timed
runs in a fresh process (benchmarks/scale_probe.py), repeatedly; printed are medians, and the growth from 100 to 10,000.
Peer: the same file and the same calls through Optuna with its defaults, and optuna-dashboard by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from scale_study import grow, shape
from table import Figure, publish

from search.launcher import end_orphan
from train.rundir import RunDir

SIZES = (100, 1_000, 10_000)
REPEATS = 3
PATIENCE_S = 300.0
PROBE = Path(__file__).with_name("scale_probe.py")
LIMITS = {"nightshift status": 1.0, "ask": 1.0, "start-up": 3.0, "dashboard, first page": 5.0}

Seconds = dict[str, float]


def measure(folder: Path, count: int) -> tuple[Seconds, Seconds]:
    """Everything of one study: (ours, the peer's), medians of fresh processes each. Leaves the study as it was."""
    ours, theirs = defaultdict(list), defaultdict(list)
    for _ in range(REPEATS):
        ours["nightshift status"].append(_command("status", folder))
        started, resumed = _restored(folder, lambda: _start(folder, count))
        ours["start-up"].append(started)
        ours["start-up after a kill, until the trial goes on"].append(resumed)
        worked, plain = (_restored(folder, lambda name=name: _probe(name, folder)) for name in ("work", "optuna"))
        page, plain_page = _probe("ours", folder), _probe("theirs", folder)
        for name in ("ask", "tell", "show"):
            ours[name].append(worked[name])
        theirs["ask"].append(plain.get("ask", PATIENCE_S))
        theirs["tell"].append(plain.get("tell", PATIENCE_S))
        theirs["start-up"].append(plain.get("first", PATIENCE_S))
        ours["dashboard, first page"].append(page.get("page", PATIENCE_S))
        theirs["dashboard, first page"].append(plain_page.get("page", PATIENCE_S))
    ours["report"].append(_restored(folder, lambda: _command("report", folder)))
    return tuple({name: statistics.median(taken) for name, taken in all_.items()} for all_ in (ours, theirs))  # type: ignore[return-value]


def _command(name: str, folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "search.cli", name, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _probe(name: str, folder: Path) -> Seconds:
    """What the probe prints; nothing where it takes longer than anybody waits."""
    try:
        command = [sys.executable, str(PROBE), name, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return {}
    found: Seconds = json.loads(done.stdout)
    return found


def _restored(folder: Path, action):  # type: ignore[no-untyped-def]
    """What `action` returns; the database is put back afterwards, and runs that it made are gone."""
    database, kept = folder / "study.db", folder / "kept.db"
    shutil.copyfile(database, kept)
    runs = set((folder / "runs").iterdir())
    try:
        return action()
    finally:
        os.replace(kept, database)
        for run in set((folder / "runs").iterdir()) - runs:
            shutil.rmtree(run) if run.is_dir() else run.unlink()


def _start(folder: Path, count: int) -> tuple[float, float]:
    """`nightshift start` until its new trial has a recipe; killed at work, and again until that trial is given to the
    worker anew."""
    run = RunDir(folder / "runs" / f"{count:03d}")
    return _killed(folder, run.recipe_path), _killed(folder, run.job)


def _killed(folder: Path, awaited: Path) -> float:
    before = awaited.stat().st_mtime_ns if awaited.exists() else 0
    began = time.perf_counter()
    command = [sys.executable, "-m", "search.cli", "start", str(folder / "study.toml"), "--budget", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while not (awaited.exists() and awaited.stat().st_mtime_ns > before):
            assert process.poll() is None, "the service ended by itself"
            assert time.perf_counter() < began + PATIENCE_S, f"{awaited} was not written"
            time.sleep(0.005)
        took = time.perf_counter() - began
        job = folder / "runs" / f"{awaited.parent.name}" / "job.json"
        while not job.exists() and process.poll() is None:  # until there is a worker to take up again
            time.sleep(0.02)
        return took
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        end_orphan(folder / "runs")


def figures(ours: dict[int, Seconds], theirs: dict[int, Seconds], sizes: dict[int, int], same: bool) -> list[Figure]:
    """One line for each thing that was measured."""
    few, many = min(SIZES), max(SIZES)
    found = [Figure("made trials are of the real loop's shape", "yes" if same else "no", "-", "yes", same)]
    for name, taken in ours[many].items():
        growth = f"{taken:.2f} s, from {ours[few][name]:.2f} s at {few}"
        there = name in theirs[many]
        late = there and theirs[many][name] >= PATIENCE_S
        peer = f"{'over ' if late else ''}{theirs[many][name]:.2f} s, from {theirs[few][name]:.2f} s" if there else "-"
        limit = LIMITS.get(name)
        reached = taken < limit if limit else not there or taken <= theirs[many][name]
        aim = f"{limit:.0f} s" if limit else "the peer's" if there else "-"
        found.append(Figure(f"{name}, {many:,} trials", growth, peer, aim, reached))
    grown = f"{sizes[many] / 2**20:.0f} MiB, from {sizes[few] / 2**20:.1f} MiB at {few}"
    found.append(Figure(f"database, {many:,} trials", grown, "-", "-", True))
    return found


def _rehearsed(place: Path) -> Path:
    """The home of a rehearsal: the one that was named, or a fresh one."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    print("no finished rehearsal was named; running one, some minutes", flush=True)
    command = [sys.executable, "-m", "search.cli", "rehearse", "--home", str(place)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return place


def main() -> None:
    """Grow, measure, publish."""
    ours, theirs, sizes = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        rehearsed = _rehearsed(Path(name) / "rehearsal") / "studies" / "rehearsal"
        for count in SIZES:
            folder = grow(rehearsed, Path(name) / "studies" / f"n{count}", count)
            sizes[count] = (folder / "study.db").stat().st_size
            ours[count], theirs[count] = measure(folder, count)
            print(f"{count:,} trials: {ours[count]} | peer: {theirs[count]}", flush=True)
        same = shape(rehearsed / "study.db") == shape(folder / "study.db")
    load = os.getloadavg()[2]
    note = "| trials | " + " | ".join(ours[max(SIZES)]) + " |\n|" + "---|" * (1 + len(ours[max(SIZES)])) + "\n"
    note += "".join(f"| {n:,} | " + " | ".join(f"{s:.2f}" for s in ours[n].values()) + " |\n" for n in SIZES)
    note += (
        f"\nMedians of {REPEATS} fresh processes, in seconds; the machine's load over the last quarter of an hour was "
        f"{load:.1f}.\nStart-up is the whole command until its first trial is asked, `show` what one look of the "
        "screen costs the service,\n`tell` everything that is recorded of one trial.\n"
    )
    publish("storage", "The record of 10,000 trials", figures(ours, theirs, sizes, same), note)


if __name__ == "__main__":
    main()
