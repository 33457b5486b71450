"""Spearman's rank correlation, for the report. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEAST_PAIRS = 5


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, from -1 to 1; equal values share their ranks' mean.

    None where it would say nothing: fewer than LEAST_PAIRS, or all values on one side equal.
    """
    if len(pairs) < LEAST_PAIRS:
        return None
    firsts, seconds = zip(*pairs, strict=True)
    try:
        return statistics.correlation(_ranks(firsts), _ranks(seconds))
    except statistics.StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value among them; the last ones are those that are no number, equal to each other."""
    known = [math.inf if math.isnan(value) else value for value in values]
    below = {value: sum(other < value for other in known) for value in set(known)}
    return [below[value] + (known.count(value) - 1) / 2 for value in known]
