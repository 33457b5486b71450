"""The fit of the best learning rate by the length of the run, on made-up runs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import horizon
from horizon import CENTRE, Run, bests, fit, vertex


def runs(exponent: float) -> list[Run]:
    """Parabolas whose vertices follow the power law exactly."""
    made = []
    for steps in (100, 400, 1600):
        best = -exponent * math.log2(steps / 100)
        powers = range(round(best) - 1, round(best) + 2)
        made += [Run(steps / 100, steps, p, 0, math.exp(0.1 * (p - best) ** 2 - 3)) for p in powers]
    return made


@pytest.mark.parametrize("exponent", [-0.3, 0.0, 0.35])
def test_a_power_law_is_found_again(exponent: float) -> None:
    found = list(bests(runs(exponent)))
    assert all(best.inside for best in found)
    assert found[0].rate == pytest.approx(CENTRE)
    law = fit(found)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.half_width < 1e-6


def test_a_best_at_the_edge_or_beside_a_breakdown_is_not_trusted() -> None:
    assert vertex({0: 1.0, 1: 2.0, 2: 3.0}) == (0.0, False)
    assert vertex({-1: 2.0, 0: 1.0, 1: math.inf}) == (0.0, False)


def test_two_points_give_no_uncertainty() -> None:
    assert fit(list(bests(runs(0.35)))[:2]).half_width == math.inf


def test_a_file_that_is_not_there_holds_no_run(tmp_path: Path) -> None:
    assert horizon.read(tmp_path / "none.jsonl") == []
