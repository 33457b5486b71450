"""How well the seconds of a trial, and the end of a study, are known beforehand: a part of `make bench-search`.

    python benchmarks/search_cost.py

On each landscape, in random orders: learn from the first trials, estimate all the others from their recipes. A trial's
seconds are CPU seconds here, of its data, training, probes, saving and the answers at its end.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from table import Figure

from search import config, forecast, home, space
from search.cost import Costs, Observation, Terms
from train.base import BaseFacts, facts_of_config
from train.planning.plan import Answers

LANDSCAPES = Path(__file__).parent / "landscapes"
LEARNED = (0, 5, 10, 20)
JUDGED = 5  # trials after which the median error is to be at most TO_REACH
TO_REACH = 0.10
ORDERS = 50
FORECASTS = ((6, 24), (10, 30), (24, 40))  # trials seen, of all
SUBSET = 64  # prompts of the search half that a trial's score is of
RUNGS = (0.125, 0.25, 0.5, 0.75, 1.0)  # those of a landscape
ASKED = Answers(prompts=144, at_once=64, prompt_tokens=64, new_tokens=64)
TINY = {"num_hidden_layers": 3, "vocab_size": 768, "max_position_embeddings": 512, "tie_word_embeddings": True}
BASES = {
    "llama": {"model_type": "llama", "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, **TINY},
    "qwen2": {"model_type": "qwen2", "hidden_size": 96, "intermediate_size": 288, "num_attention_heads": 6, **TINY},
}


def rows(path: Path) -> list[dict[str, Any]]:
    """The recipes of a landscape that were trained to their end."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [row for row in found[1:] if row["outcome"] == "completed"]


def base_of(landscape: str) -> BaseFacts:
    """The sizes of its base model, as benchmarks/landscape_make.py makes it."""
    return facts_of_config(BASES[landscape.split("-")[0]])


def observations(landscape: str, found: Sequence[dict[str, Any]]) -> list[Observation]:
    """The rows as what a study would have seen of them."""
    with tempfile.TemporaryDirectory() as folder:
        study = config.load(home.write_preset("rehearsal", Path(folder)))
    terms = Terms(base_of(landscape), None, RUNGS, ASKED)
    return [
        Observation(
            terms.work(space.recipe(study, row["params"])), {**row["seconds"], "score": row["asked_seconds"]["100"]}
        )
        for row in found
    ]


def errors(seen: Sequence[Observation], learned: int, order: int) -> tuple[float, float]:
    """The median relative error of the other trials' seconds, and the share of them within one standard deviation."""
    shuffled = list(seen)
    random.Random(order).shuffle(shuffled)
    costs = Costs.learn(shuffled[:learned])
    off, within = [], []
    for each in shuffled[learned:]:
        estimate, actual = costs.of(each.work), sum(each.seconds.values())
        expected = sum(seconds for cause, seconds in estimate.by_cause.items() if cause in each.seconds)
        off.append(abs(expected / actual - 1))
        within.append(abs(expected / actual - 1) <= estimate.sd_log)
    return statistics.median(off), statistics.mean(within)


def figures(landscape: str, seen: Sequence[Observation]) -> list[Figure]:
    """One line for each number of trials learned from; what is to reach is to reach on each landscape."""
    made = []
    for learned in LEARNED:
        found = [errors(seen, learned, order) for order in range(ORDERS if learned else 1)]
        off = sorted(each[0] for each in found)
        middle, worst = statistics.median(off), off[int(0.9 * (len(off) - 1))]
        inside = statistics.mean(each[1] for each in found)
        measured = f"{middle:.1%} (in 9 of 10 orders below {worst:.1%}; {inside:.0%} within one sd)"
        judged = learned >= JUDGED
        to_reach = f"at most {TO_REACH:.0%}" if judged else "-"
        name = f"{landscape}: median error of a trial's seconds after {learned} of {len(seen)}"
        made.append(Figure(name, measured, "-", to_reach, not judged or middle <= TO_REACH))
    return made


def finals(landscape: str, found: Sequence[dict[str, Any]]) -> list[Figure]:
    """How near the forecast of a study of random recipes is to what its pick scores on the half that it never saw."""
    made = []
    for seen, trials in FORECASTS:
        off, within = [], []
        for order in range(4 * ORDERS):
            night = random.Random(order).sample(list(found), trials)
            scores = [_scored(row["followed"]["100"][:SUBSET]) for row in night]
            told = forecast.final(scores[:seen], trials - seen)
            assert told is not None
            picked = max(range(trials), key=lambda n: scores[n].value)
            off.append(told.value - _scored(night[picked]["sealed"]).value)
            within.append(abs(off[-1]) <= told.sd)
        inside, bias = statistics.mean(within), statistics.mean(off)
        name = f"{landscape}: final score of {trials} random trials, told after {seen}, within ±"
        measured = f"{inside:.0%} (bias {bias:+.3f}, mean error {statistics.mean(map(abs, off)):.3f})"
        made.append(Figure(name, measured, "-", "at least 60%", inside >= 0.6))
    return made


def _scored(followed: str) -> forecast.Scored:
    share = followed.count("1") / len(followed)
    return forecast.Scored(share, (share * (1 - share) / len(followed)) ** 0.5)


def main() -> None:
    """Print the lines of every landscape there is."""
    for path in sorted(LANDSCAPES.glob("*.jsonl.gz")):
        landscape = path.name.removesuffix(".jsonl.gz")
        found = rows(path)
        for figure in (*figures(landscape, observations(landscape, found)), *finals(landscape, found)):
            print(figure.line)


if __name__ == "__main__":
    main()
