"""Replay landscapes, on a small table made up here: a recipe of the table shows itself, all others always the same."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import landscape  # noqa: E402
import landscape_table  # noqa: E402
from landscape import FRACTIONS, Landscape, drawn  # noqa: E402
from landscape_fit import Process, abilities  # noqa: E402

PROMPTS, ROWS, REPEATS = 40, 24, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    """A world in which the learning rate alone decides."""
    folder = tmp_path_factory.mktemp("landscape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name, value in {"DENSE": 60, "LEADERS": 4, "ROUNDS": 2, "TRIES": 4, "ELSEWHERE": 40}.items():
            patch.setattr(landscape, name, value)
        patch.setattr(landscape_table, "TRIED", 2)
        path = folder / "made.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in _lines()) + '{"torn', encoding="utf-8")
        return Landscape.load(path)


def _lines() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    space = landscape._study(0).space
    recipes = [drawn(space, rng) for _ in range(ROWS)]
    head = {"landscape": "made", "seed": 0, "search": list(range(PROMPTS)), "sealed": list(range(PROMPTS, 2 * PROMPTS))}
    first = [_row(params, 0, rng) for params in recipes]
    return [head, *first, *(_row(params, 1000, rng) for params in recipes[:REPEATS])]


def _row(params: dict[str, Any], seed: int, rng: np.random.Generator) -> dict[str, Any]:
    good = 1 - abs(math.log(params["learning_rate"] / 5e-3)) / 3

    def marks(share: float) -> str:
        return "".join(str(int(u < good * share)) for u in rng.random(PROMPTS))

    return {
        "params": params,
        "prior": "",
        "seed": seed,
        "outcome": "completed",
        "seconds": {"data": 0.1, "train": 8 + params["rank"], "probe": 1.0, "save": 0.1},
        "bits": {f"{100 * f:g}": 0.2 - 0.1 * good * f + 0.02 * rng.random() for f in FRACTIONS},
        "followed": {"25": marks(0.4), "50": marks(0.6), "100": marks(0.9)},
        "asked_seconds": {"25": 0.5, "50": 0.6, "100": 0.6},
        "sealed": marks(0.9),
    }


def test_recipe_of_the_table_shows_its_own_curve(world: Landscape) -> None:
    for number, row in enumerate(world.table.rows):
        run = world.run(row["params"], int(row["seed"] != 0))
        assert [run.bits(f) for f in FRACTIONS] == pytest.approx(list(row["bits"].values()))
        assert list(run.followed(0.5)) == list(world.table.followed[number, 1] == 1)
        assert run.train_s == pytest.approx(8.2 + row["params"]["rank"])


def test_same_recipe_and_seed_always_show_the_same(world: Landscape) -> None:
    params = drawn(world.study.space, np.random.default_rng(7))
    again = {name: params[name] for name in reversed(params)} | {"rank": int(params["rank"])}
    one, other = world.run(params, 3), world.run(again | ({} if params["dpo_share"] else {"dpo_beta": 0.3}), 3)
    assert (one.truth, one.train_s, one.bits(0.3)) == (other.truth, other.train_s, other.bits(0.3))
    assert (one.followed(0.6) == other.followed(0.6)).all()


def test_seed_changes_what_is_seen_and_not_the_truth(world: Landscape) -> None:
    params = drawn(world.study.space, np.random.default_rng(8))
    runs = [world.run(params, seed) for seed in range(4)]
    assert len({run.truth for run in runs}) == 1
    assert len({run.bits(1.0) for run in runs}) == 4


def test_truth_follows_what_decides_in_the_table(world: Landscape) -> None:
    rng = np.random.default_rng(9)
    recipes = [drawn(world.study.space, rng) for _ in range(60)]
    good = [-abs(math.log(float(params["learning_rate"]) / 5e-3)) for params in recipes]
    truths = world.truths(recipes)
    assert np.corrcoef(good, truths)[0, 1] > 0.4
    assert truths[0] == pytest.approx(world.run(recipes[0]).truth)


def test_best_is_a_share_that_no_recipe_of_the_table_exceeds(world: Landscape) -> None:
    assert world.truths([row["params"] for row in world.table.rows]).max() <= world.best <= 1.0


def test_between_rungs_each_prompt_is_as_before_or_as_after(world: Landscape) -> None:
    run = world.run(drawn(world.study.space, np.random.default_rng(10)))
    before, between, after = (run.followed(f) for f in (0.25, 0.4, 0.5))
    assert ((between == before) | (between == after)).all()
    assert min(run.bits(0.25), run.bits(0.5)) <= run.bits(0.4) <= max(run.bits(0.25), run.bits(0.5))


def test_failed_run_shows_no_bits_and_follows_nothing(world: Landscape) -> None:
    run = replace(world.run(drawn(world.study.space, np.random.default_rng(11))), failed_at=0.5)
    assert math.isfinite(run.bits(0.25))
    assert math.isnan(run.bits(0.5))
    assert not run.followed(0.5).any()


def test_abilities_rank_rows_by_what_they_follow() -> None:
    rng = np.random.default_rng(0)
    verdicts = (rng.random((12, 200)) < np.linspace(0.1, 0.9, 12)[:, None]).astype(float)
    theta, items = abilities(verdicts)
    assert np.corrcoef(theta, np.linspace(0.1, 0.9, 12))[0, 1] > 0.97
    assert items.probability(theta).mean(axis=1) == pytest.approx(verdicts.mean(axis=1), abs=0.05)


def test_process_finds_a_smooth_function_and_says_how_well() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60, 2))
    values = np.sin(3 * points[:, 0]) + 0.01 * rng.normal(size=60)
    process = Process.fitted(points, values - values.mean())
    assert np.sqrt(np.mean((process.left_out() - process.values) ** 2)) < 0.1
    assert 0.1 < process.calibration() < 3
