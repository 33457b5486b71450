"""How soon a run is at its first step: a process of its own, which imports what the worker does, as it does.

python benchmarks/first_steps.py MODEL_FOLDER       # see training.starts
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from work import Work, recipe_of, rows_of

from train.imports import collector_paused
from train.recipe import Base
from train.rundir import RunDir

with collector_paused():
    import datasets

    import train.loop
    from train.data.splits import ProbeRow, Splits
    from train.model import drop_adapter, load_base


def first_steps(folder: str) -> None:
    """In a process of its own: print when the first step was done, and what the second run took to its own."""
    work = Work("", Path(folder), 768, 0)
    recipe, base = recipe_of(work), load_base(Base(model=folder), 1, "cpu")
    splits = Splits(datasets.Dataset.from_list(rows_of(work, 0)), None, (ProbeRow([5, 6, 7], [-100, 6, 7], 2),), {})
    found = []
    for _ in range(2):
        began = time.time()
        with tempfile.TemporaryDirectory() as home:
            run = RunDir(Path(home))
            drop_adapter(train.loop.train(recipe, run, base, splits=splits, rungs=()).model)
            step = next(event for event in run.read_events() if event["event"] == "step")
        found.append((began + step["seconds"], step["seconds"]))
    print(json.dumps([found[0][0], found[1][1]]))


if __name__ == "__main__":
    first_steps(sys.argv[1])
