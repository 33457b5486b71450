"""What every arm of the training benchmark trains on: rows as long as Dolly's, and one recipe. Imports no torch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from train.recipe import Base, Recipe, Source

MEDIAN, P99, SHORTEST, LONGEST = 60, 900, 12, 1024  # tokens of a row
PROMPT = 0.4  # of a row
EXAMPLES = 16  # a step
WARMED_UP = 2  # steps


@dataclass(frozen=True)
class Work:
    """One model and how many steps of it an arm makes, after `WARMED_UP` that do not count."""

    name: str
    folder: Path
    vocabulary: int
    steps: int


def lengths(count: int, seed: int) -> list[int]:
    """Row lengths with a log-normal distribution, as those of Dolly's rows have."""
    draw = random.Random(seed)
    sigma = math.log(P99 / MEDIAN) / 2.326  # the 99th percentile of the normal distribution
    return [min(LONGEST, max(SHORTEST, round(draw.lognormvariate(math.log(MEDIAN), sigma)))) for _ in range(count)]


def rows_of(work: Work, seed: int) -> list[dict[str, list[int]]]:
    """Random tokens, of which the first PROMPT are not learned."""
    draw = random.Random(seed + 1)
    rows = []
    for length in lengths((WARMED_UP + work.steps) * EXAMPLES, seed):
        ids = [draw.randrange(5, work.vocabulary) for _ in range(length)]
        prompt = round(PROMPT * length)
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def recipe_of(work: Work) -> Recipe:
    """What all arms have in common."""
    return Recipe(
        base=Base(model=str(work.folder)),
        sources=(Source(name="made", path="made.jsonl"),),
        examples=(WARMED_UP + work.steps) * EXAMPLES,
        batch_size=EXAMPLES,
        max_length=LONGEST,
        rank=16,
        dropout=0.05,
        optimizer="adamw",
    )
