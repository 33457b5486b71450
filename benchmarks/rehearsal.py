"""`make bench-rehearsal`: the whole rehearsal with ten seeds. Is the world learnable, is the search worth its name?

Each seed makes a world of its own, searches it, freezes the best trial and runs it, through the command that a user
types. Two seeds at a time, each with a core of its own; takes about twenty minutes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from table import Figure, publish

from objectives.score import Score
from search import view
from train.rundir import read_json

SEEDS = range(10)
NEEDED = 9  # of ten
AT_A_TIME = 2
LIMIT_S, LIMIT_BYTES = 360.0, 4 * 2**30


@dataclass(frozen=True)
class Rehearsal:
    """What one seed gave: prompt-level strict accuracies, the share of the final run's answers that the length limit
    cut off, seconds, and the most memory of all processes together."""

    seed: int
    base: float
    bad: float
    best: float
    final: float
    capped: float
    seconds: float
    peak_bytes: int


def rehearse(seed: int, home: Path) -> Rehearsal:
    """Rehearse with one seed in a fresh folder and a fresh cache."""
    began, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "search.cli", "rehearse", "--home", str(home), "--seed", str(seed)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.5)
    assert process.returncode == 0, f"seed {seed} ended with exit code {process.returncode}"
    print(f"seed {seed} is done", flush=True)
    study = view.read(home / "studies" / "rehearsal")
    result = read_json(study.folder / "final" / "result.json")
    bad = next(t for t in study.trials if t.prior == "gentle")
    assert study.best is not None
    assert study.best.score is not None
    answered = read_json(study.folder / "runs" / f"{bad.number:03d}" / "result.json")
    assert answered is not None
    assert result is not None
    return Rehearsal(
        seed=seed,
        base=result["base_scores"]["all"]["prompt_strict"]["value"],
        bad=answered["score"]["prompt_strict"]["value"],  # of the prompts asked, before it was behind
        best=study.best.score.value,
        final=result["scores"]["sealed"]["prompt_strict"]["value"],
        capped=Score.model_validate(result["scores"]["all"], strict=False).capped_share,
        seconds=time.monotonic() - began,
        peak_bytes=peak,
    )


def _memory(process: psutil.Process) -> int:
    """Bytes resident in the process and all that it started."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def answers(home: Path) -> list[Figure]:
    """How long a user waits for an answer: whole processes, the median of seven after one that warms the disk up."""
    found, place = [], {**os.environ, "NIGHTSHIFT_HOME": str(home)}
    for arguments, limit in ((["--help"], 0.5), (["status", "rehearsal"], 1.0)):
        took = []
        for _ in range(8):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "search.cli", *arguments], check=True, stdout=subprocess.DEVNULL, env=place
            )
            took.append(time.perf_counter() - began)
        median = statistics.median(took[1:])
        found.append(Figure(f"nightshift {arguments[0]}", f"{median:.2f} s", "-", f"{limit} s", median < limit))
    return found


def figures(runs: list[Rehearsal]) -> list[Figure]:
    """The claims that the README makes of the rehearsal."""

    def seeds(name: str, holds: list[bool], values: list[float], needed: str) -> Figure:
        measured = f"{sum(holds)} of {len(holds)} seeds ({min(values):.3f} to {max(values):.3f})"
        return Figure(name, measured, "-", f"{needed} in {NEEDED} of 10", sum(holds) >= NEEDED)

    slowest, largest = max(r.seconds for r in runs), max(r.peak_bytes for r in runs)
    return [
        seeds("base model, all prompts", [r.base <= 0.10 for r in runs], [r.base for r in runs], "at most 0.10"),
        seeds("a bad recipe (prior gentle)", [r.bad < 0.20 for r in runs], [r.bad for r in runs], "under 0.20"),
        seeds("best trial, search half", [r.best >= 0.60 for r in runs], [r.best for r in runs], "at least 0.60"),
        seeds("final run, unseen half", [r.final >= 0.70 for r in runs], [r.final for r in runs], "at least 0.70"),
        seeds("answers cut off, final run", [r.capped < 0.03 for r in runs], [r.capped for r in runs], "under 0.03"),
        Figure("slowest seed, world included", f"{slowest:.0f} s", "-", f"{LIMIT_S:.0f} s", slowest <= LIMIT_S),
        Figure("most memory", f"{largest / 2**30:.2f} GiB", "-", "4 GiB", largest < LIMIT_BYTES),
    ]


def main() -> None:
    """Rehearse with every seed, then publish."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_A_TIME) as pool:
        runs = list(pool.map(lambda seed: rehearse(seed, Path(folder) / str(seed)), SEEDS))
        waits = answers(Path(folder) / str(SEEDS[-1]))
    head = "| seed | base | bad recipe | best trial | final run | cut off | seconds |\n|---|---|---|---|---|---|---|\n"
    rows = "".join(
        f"| {r.seed} | {r.base:.3f} | {r.bad:.3f} | {r.best:.3f} | {r.final:.3f} | {r.capped:.3f} | {r.seconds:.0f} |\n"
        for r in runs
    )
    note = "The final run and the base model are scored on prompts that the search never saw (base: on all prompts).\n"
    publish("rehearsal", "The rehearsal with ten seeds", figures(runs) + waits, f"{head}{rows}\n{note}")


if __name__ == "__main__":
    main()
