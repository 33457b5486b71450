"""Three nights of the real loop on a replayed landscape, with power cuts at random instants, for `make bench-nights`.

    python benchmarks/nights.py [--seeds 200] [--landscape llama-1] [--jobs 1]

Every seed is a study of its own, with a random budget, spent twice: with power cuts and without. What is kept of each
is a line of JSON in the cache folder, so that a benchmark that was killed goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import replay_world
from landscape import Landscape
from replay_attempt import World
from replay_nights import Plan, Story, play
from replay_promises import broken, overcharges, same
from table import Figure, publish

from objectives import subset
from objectives.score import Prompt
from search.budget import LEASE_S
from search.forecast import ENOUGH
from train.rehearsal import _cache

LANDSCAPE = "llama-1"  # what search/forecast.py has of these nights was chosen on llama-0
SEEDS, NIGHTS, NIGHT_S, CUTS = 200, 3, 120.0, 2.0
BUDGETS = (0.6, 1.05)  # of the nights' length
TRIALS = 500  # more than there is time for
MEMORY = Path("/dev/shm")  # a disk that is quick
RUN_SEEDS = 5000  # of training, apart from those of other benchmarks
HELD = 0.6  # of the forecasts lie within one standard deviation
FEW = 5  # trials, of which no share is told


@dataclass(frozen=True)
class Base:
    """The base model as it is: it follows a prompt now and then."""

    prompts: int
    failed_at: float | None = None
    train_s: float = 0.0
    probe_s: float = 0.2
    prompt_s: float = 0.004

    def bits(self, fraction: float) -> float:
        """Bits per byte of the probe."""
        return 3.0

    def followed(self, fraction: float) -> list[bool]:
        """Whether each prompt is followed."""
        return [number % 20 == 0 for number in range(self.prompts)]


def prompts(count: int) -> tuple[Prompt, ...]:
    """Prompts that nobody reads."""
    kinds = ("punctuation:no_comma", "startend:quotation", "detectable_format:title")
    return tuple(
        Prompt(key=key, prompt=f"Prompt {key}", instruction_id_list=(kinds[key % 3],), kwargs=({},))
        for key in range(count)
    )


def both(world: World, asked: Sequence[Prompt], seed: int, folder: Path, **plan: Any) -> tuple[Story, Story]:
    """The same study with power cuts and without. `plan` is what of replay_nights.Plan is not by default."""
    study = replay_world.write(folder / "study", asked, seed=seed, trials=TRIALS)
    budget_s = NIGHTS * NIGHT_S * random.Random(seed).uniform(*BUDGETS)
    settings = {"nights": NIGHTS, "night_s": NIGHT_S, "budget_s": budget_s, "seed": seed, "cuts": CUTS, **plan}
    cut = play(Plan(folder / "cut", study, world, **settings))
    return cut, play(Plan(folder / "uncut", study, world, **{**settings, "cuts": 0.0}))


def forecasts(story: Story) -> list[dict[str, float]]:
    """Of each start that went on to the end of its night, or of all nights where the forecast is of the budget: the
    trials that it said first, their standard deviation, what came of it, and how many had ended before."""
    found = []
    for number, start in enumerate(story.starts):
        if start.forecast:
            trials, sd, tonight = start.forecast
            uncut = start.ending and (tonight or all(later.ending for later in story.starts[number:]))
            were = (story.ended[start.night] if tonight else story.ended[-1]) - start.before
            found += [{"said": trials, "sd": sd, "were": were, "before": start.before}] if uncut else []
    return found


def costs(story: Story) -> list[float]:
    """GPU-seconds of each trial that ended."""
    ended = [record.number for record in story.record.trials if record.finished]
    return [round(sum(a.charged_s for a in story.record.attempts if a.trial == number), 3) for number in ended]


def raced(story: Story) -> bool | None:
    """Whether the final race is decided, where the study's trials are over; None where the last night ended first."""
    if not story.starts[-1].ending or "the deadline" in story.starts[-1].ending:
        return None
    return bool(story.race and story.race.winner is not None)


def line(cut: Story, uncut: Story) -> dict[str, Any]:
    """What is kept of one seed."""
    return {
        "broken": broken(cut, uncut),
        "cuts": sum(not start.ending for start in cut.starts),
        "overcharges": overcharges(cut),
        "spent": [cut.record.spent_s / cut.plan.budget_s, uncut.record.spent_s / uncut.plan.budget_s],
        "kept": sum(map(len, cut.kept)),
        "trials": [cut.ended[-1], uncut.ended[-1]],
        "same": same(cut, uncut),
        "forecasts": [forecasts(cut), forecasts(uncut)],
        "costs": costs(uncut),
        "raced": [raced(cut), raced(uncut)],
    }


def spend(name: str, seeds: Sequence[int], kept: Path, jobs: int) -> list[dict[str, Any]]:
    """The lines of these seeds; those that are missing are made, so many at a time, and appended."""
    lines = kept.read_text().splitlines(keepends=True) if kept.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # a kill may have torn the last one
    kept.write_text("".join(whole))
    there = {told["seed"]: told for told in map(json.loads, whole)}
    with ProcessPoolExecutor(jobs) as pool, kept.open("a", encoding="utf-8") as file:
        for told in pool.map(partial(one, name), [seed for seed in seeds if seed not in there]):
            there[told["seed"]] = told
            file.write(json.dumps(told) + "\n")
            file.flush()
            print(told["seed"], told["broken"] or "as it should be", told["trials"], flush=True)
    return [there[seed] for seed in seeds]


def one(name: str, seed: int) -> dict[str, Any]:
    """The line of one seed."""
    landscape = Landscape.load(name)
    asked = prompts(2 * len(landscape.keys))
    keys = [prompt.key for prompt in subset.halves(asked)[0]]
    world = World(partial(landscape.run, seed=RUN_SEEDS + seed), Base(len(keys)), keys, landscape.study.space)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        return {"seed": seed, **line(*both(world, asked, seed, Path(folder)))}


def figures(lines: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """What the nights show."""
    cuts, over = sum(told["cuts"] for told in lines), [s for told in lines for s in told["overcharges"]]
    wrong = [sentence for told in lines for sentence in told["broken"]]
    alike = sum(told["same"] for told in lines)
    spent = max(share for told in lines for share in told["spent"])
    return [
        Figure("promises broken", f"{len(wrong)} in {cuts} cuts, {len(lines)} studies", "-", "0", not wrong),
        Figure("spent of the budget, at most", f"{100 * spent:.2f} %", "-", "at most 100 %", spent <= 1),
        Figure(
            "charged too much by a cut",
            f"{statistics.median(over):.1f} s (median), {max(over):.1f} s (most)",
            "-",
            f"at most {LEASE_S:.0f} s",
            max(over) <= LEASE_S,
        ),
        Figure(
            "the same trials as without cuts",
            f"{alike} of {sum(min(told['trials']) for told in lines)}",
            "-",
            "all, until the budget is short of one",
            not any("without cuts" in sentence for sentence in wrong),
        ),
        _of_races(*([told["raced"][n] for told in lines if told["raced"][n] is not None] for n in (0, 1))),
        *_of_forecasts("without cuts", [each for told in lines for each in told["forecasts"][1]]),
        *_of_forecasts("after cuts", [each for told in lines for each in told["forecasts"][0] if each["before"]]),
    ]


def _of_races(cut: Sequence[bool], uncut: Sequence[bool]) -> Figure:
    """How often the budget that was kept for the final race was enough for it; each cut may cost it a lease."""
    return Figure(
        "final races decided within the budget",
        f"{sum(uncut)} of {len(uncut)} without cuts, {sum(cut)} of {len(cut)} with them",
        "-",
        "all without cuts",
        all(uncut),
    )


def _of_forecasts(where: str, told: Sequence[Mapping[str, float]]) -> Iterator[Figure]:
    """How far the forecasts were off: before any trial ended, by the plan alone, and later."""
    for when, chosen in (
        ("by the plan", [each for each in told if each["before"] == 0]),
        ("by its trials", [each for each in told if each["before"] >= ENOUGH]),
    ):
        off = [abs(each["said"] - each["were"]) for each in chosen]
        relative = [abs(each["said"] / each["were"] - 1) for each in chosen if each["were"] >= FEW]
        if not relative:
            continue
        held = statistics.fmean(abs(e["said"] - e["were"]) <= max(e["sd"], 0.5) for e in chosen)
        (trials, most), (share, largest) = np.quantile(off, [0.5, 0.9]), np.quantile(relative, [0.5, 0.9])
        yield Figure(
            f"forecast's error {where}, {when}",
            f"median {trials:.0f} trials, 90 % {most:.0f}; where {FEW} or more fitted, {share:.0%} and {largest:.0%}; "
            f"within its ± {held:.0%} of {len(chosen)}",
            "-",
            f"within its ± at least {HELD:.0%}",
            held >= HELD,
        )


def made_of() -> str:
    """A digest of what plays the nights and of what is played, so that no study of other code is counted."""
    here = Path(__file__).parent
    rooms = [here.parent / room for room in ("search", "storage", "train", "objectives")]
    code = [Path(__file__), *here.glob("replay*.py"), *here.glob("landscape*.py"), *(here / "landscapes").iterdir()]
    files = sorted([*code, *(path for room in rooms for path in room.rglob("*.py"))])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def main() -> None:
    """Spend the nights, print what they show, and publish it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--landscape", default=LANDSCAPE)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time")
    asked = parser.parse_args()
    kept = _cache() / f"nights-{asked.landscape}-{made_of()}.jsonl"
    lines = spend(asked.landscape, range(asked.seeds), kept, asked.jobs)
    publish("nights", "Three nights with power cuts", figures(lines), notes(lines, asked.landscape))


def notes(lines: Sequence[Mapping[str, Any]], landscape: str) -> str:
    """What the page says beside the figures."""
    cut, uncut = (statistics.fmean(told["trials"][which] for told in lines) for which in (0, 1))
    return f"""{len(lines)} studies of {NIGHTS} nights of {NIGHT_S:.0f} s each on the landscape {landscape}, the budget
drawn from {BUDGETS[0]} to {BUDGETS[1]} of all nights; {cut:.1f} trials ended with cuts, {uncut:.1f} without.
"""


if __name__ == "__main__":
    main()
