"""How far the final run goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import SearchError
from search.horizon import (
    FASTER,
    LARGEST,
    LEAST_STEPS,
    corrections,
    divided_by,
    epoch,
    examples_per_second,
    load_seconds,
    stretch,
)
from search.sections import FinalSection
from train.hours import MEANT
from train.recipe import Base, Probe, Recipe, Source
from train.rundir import RunDir, write_json

SOURCES = (
    Source(name="clean", path="clean.jsonl"),
    Source(name="noisy", path="noisy.jsonl"),
    Source(name="pairs", path="pairs.jsonl", use="preference"),
)
ROWS = {"clean": 1010, "noisy": 4010, "pairs": 500}


def recipe(weights: tuple[float, float] = (1.0, 0.0), **more: Any) -> Recipe:
    clean, noisy, pairs = SOURCES
    sources = (clean.model_copy(update={"weight": weights[0]}), noisy.model_copy(update={"weight": weights[1]}), pairs)
    fields = {"examples": 160, "batch_size": 16, "probe": Probe(rows=20), **more}
    return Recipe(base=Base(model="m"), sources=sources, **fields)


@pytest.mark.parametrize(
    ("asked", "examples"),
    [
        ({}, 1000),  # 1010 rows, 10 of them held out
        ({"weights": (1.0, 1.0)}, 2000),  # the clean source is through first, after twice its rows
        ({"weights": (1.0, 3.0)}, 4000),
        ({"weights": (0.0, 2.0)}, 4000),
        ({"rows": 400}, 400),
        ({"rows": 400, "weights": (1.0, 3.0)}, 400),
        ({"dpo_share": 0.2}, 1250),  # 80 % of it are 1000
        ({"dpo_share": 0.5}, 1000),  # half of it are 500 pairs
        ({"probe": Probe(rows=20, sources=("noisy",))}, 1010),
    ],
)
def test_an_epoch_ends_when_the_first_source_is_through(asked: dict[str, Any], examples: int) -> None:
    assert epoch(recipe(**asked), ROWS) == pytest.approx(examples)


def test_time_decides_where_data_are_plenty() -> None:
    horizon = stretch(recipe(), ROWS, FinalSection(hours=0.01, max_epochs=3.0), rate=40.0, load_s=10.0)
    assert horizon.examples == 16 * ((36 * MEANT - 10) * 40 // 16)
    assert horizon.longest == 2992  # a faster machine would come to the end of the data
    assert "decided by the time, in whole batches of 16" in horizon.why


def test_data_decide_where_there_is_time() -> None:
    horizon = stretch(recipe(), ROWS, FinalSection(hours=24.0, max_epochs=3.0), rate=40.0, load_s=10.0)
    assert horizon.examples == 2992
    assert "3 epochs are 3,000; decided by the data" in horizon.why


def test_a_faster_machine_has_data_for_four_times_the_speed() -> None:
    horizon = stretch(recipe(), ROWS, FinalSection(hours=0.01, max_epochs=900.0), rate=40.0, load_s=10.0)
    assert horizon.longest == 16 * (FASTER * (36 * MEANT - 10) * 40 // 16)


def test_hours_that_hold_no_more_than_a_few_steps_are_refused() -> None:
    said = r"0.003 in \[final\] of study.toml are too few: loading takes 10 s and 10 steps 4 s; give it 0.0039 at least"
    with pytest.raises(SearchError, match=said):
        stretch(recipe(), ROWS, FinalSection(hours=0.003), rate=40.0, load_s=10.0)
    assert stretch(recipe(), ROWS, FinalSection(hours=0.004), rate=40.0, load_s=10.0).least_hours == 0.00394


def test_the_trials_own_horizon_is_kept() -> None:
    horizon = stretch(recipe(examples=320), ROWS, FinalSection(hours=0.004, max_epochs=3.0), rate=40.0, load_s=10.0)
    assert (horizon.examples, horizon.longest) == (320, 672)
    assert "decided by the trial's own horizon" in horizon.why


@given(
    st.floats(1e-4, 24),
    st.floats(0.1, 9),
    st.floats(0.01, 1e4),
    st.floats(0, 1e3),
    st.integers(1, 64),
    st.integers(1, 200),
    st.floats(0, 0.9),
)
def test_a_horizon_is_whole_batches_and_within_its_limits(
    hours: float, epochs: float, rate: float, load_s: float, batch: int, batches: int, share: float
) -> None:
    trial = recipe(examples=batch * batches, batch_size=batch, dpo_share=share)
    try:
        horizon = stretch(trial, ROWS, FinalSection(hours=hours, max_epochs=epochs), rate, load_s)
    except SearchError:
        assert (3600 * MEANT * hours - load_s) * rate <= LEAST_STEPS * batch + 1e-6
        return
    examples = horizon.examples
    assert horizon.least_hours <= 1.01 * hours
    assert horizon.longest >= examples
    assert horizon.longest % batch == 0
    assert examples % batch == 0
    assert examples >= trial.examples
    if examples > trial.examples:
        assert examples <= epochs * epoch(trial, ROWS) + 1e-6
        assert examples / rate + load_s <= 3600 * hours


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_a_longer_run_never_wants_a_higher_rate_nor_one_beyond_the_bound(one: float, other: float) -> None:
    shorter, longer = sorted((one, other))
    assert 1.0 <= divided_by(shorter) <= divided_by(longer) <= LARGEST


def test_both_stages_are_corrected_by_the_steps_that_they_gain() -> None:
    trial = recipe(learning_rate=1e-3, dpo_learning_rate=1e-5, dpo_share=0.2)
    found = corrections(trial, 640, FinalSection())
    assert {name: c.before for name, c in found.items()} == {"learning_rate": 1e-3, "dpo_learning_rate": 1e-5}
    assert all(c.after == pytest.approx(c.before / divided_by(4.0), rel=1e-3) for c in found.values())
    assert "40 steps instead of 10 want a lower one, by (4) **" in found["learning_rate"].why


def test_without_dpo_its_rate_stays() -> None:
    assert corrections(recipe(), 640, FinalSection()).keys() == {"learning_rate"}


def test_a_bounded_correction_says_so() -> None:
    assert f", at most {LARGEST:g}" in corrections(recipe(), 160 * 10**6, FinalSection())["learning_rate"].why


def test_nothing_is_corrected_where_it_is_off_or_the_run_is_no_longer() -> None:
    assert corrections(recipe(), 640, FinalSection(correct_learning_rate=False)) == {}
    assert corrections(recipe(), 160, FinalSection()) == {}


def test_the_rate_is_that_of_the_whole_run_without_downtime(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create(recipe())
    # Killed after step 3, gone on from step 2; seconds are the run's own.
    for step, seconds in [(1, 5.0), (2, 7.0), (3, 9.0), (3, 9.5), (4, 11.0)]:
        run.append_event({"event": "step", "step": step, "seconds": seconds})
    run.append_event({"event": "rung", "step": 4, "seconds": 40.0})
    assert examples_per_second(run) == pytest.approx(3 * 16 / 6.0)


def test_a_single_step_gives_a_rate(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create(recipe())
    run.append_event({"event": "step", "step": 1, "seconds": 4.0})
    assert examples_per_second(run) == 4.0


def test_without_steps_there_is_no_rate(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create(recipe())
    with pytest.raises(SearchError, match="no training step any more"):
        examples_per_second(run)


def test_loading_is_the_longest_that_these_runs_saw(tmp_path: Path) -> None:
    results: dict[str, dict[str, Any]] = {
        "base": {"seconds": {"load": 60.0, "probe": 9.0}},
        "000": {"seconds": {"data": 3.0, "train": 100.0}},
        "001": {"seconds": {"load": 50.0, "data": 4.0}},
        "002": {"outcome": "failed"},
    }
    for name, result in results.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "result.json", json.loads(json.dumps(result)))
    runs = {name: RunDir(tmp_path / "runs" / name) for name in results}
    assert load_seconds(*runs.values()) == 64.0
    assert load_seconds(runs["base"], runs["000"]) == 63.0
    assert load_seconds(RunDir(tmp_path / "nothing")) == 0.0
