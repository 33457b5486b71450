"""Spearman's rank correlation: known values, and what does not change it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.report_ranks import rank_correlation

VALUES = st.integers(-5, 5).map(float)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=5, max_size=30)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 1.0),
        ([5.0, 4.0, 3.0, 2.0, -100.0], -1.0),
        (
            [5.0, 6.0, 7.0, 8.0, 7.0],
            8 / math.sqrt(95),
        ),  # ranks 1 2 3.5 5 3.5
        ([5.0, 6.0, 7.0, 8.0, math.nan], 1.0),  # diverged: worse than any number
    ],
)
def test_known_values(seconds: list[float], expected: float) -> None:
    assert rank_correlation(list(zip([1.0, 2.0, 3.0, 4.0, 5.0], seconds, strict=True))) == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [[], [(1.0, 2.0), (2.0, 3.0)] * 2, [(1.0, float(n)) for n in range(9)]])
def test_too_few_or_equal_values_have_none(pairs: list[tuple[float, float]]) -> None:
    assert rank_correlation(pairs) is None


@given(PAIRS)
def test_only_the_order_counts(pairs: list[tuple[float, float]]) -> None:
    found = rank_correlation(pairs)
    assert found == rank_correlation([(math.exp(a), b**3) for a, b in pairs])
    turned = rank_correlation([(-a, b) for a, b in pairs])
    assert (found is None) == (turned is None)
    if found is not None and turned is not None:
        assert -1.000001 < found < 1.000001
        assert found == pytest.approx(-turned)
