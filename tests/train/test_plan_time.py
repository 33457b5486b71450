"""The estimate of a step's time, its correction, and what is known of the user's own card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from train.forecast import Forecast
from train.horizon import Course
from train.planning.calibration import ASSUMED, Calibration, context_bytes, keep, known
from train.planning.flops import DPO_TIMES, SPEEDS, corrected, passes, speed_of
from train.planning.plan import plan, shape_of, step_seconds
from train.recipe import Base, Recipe, Source

CARD = SPEEDS[0]


def recipe(**changes: Any) -> Recipe:
    usual = {"base": Base(model="base"), "sources": (Source(name="a", path="a.jsonl"),), "examples": 1600}
    return Recipe(**{**usual, "batch_size": 8, "max_length": 2048, "dropout": 0.0, **changes})


@pytest.mark.parametrize(
    ("base", "tokens_per_second"),
    [("meta-llama/Llama-3.1-8B", 860), ("Qwen/Qwen2.5-7B", 940), ("mistralai/Mistral-7B-v0.3", 890)],
)
def test_the_reference_models_are_as_fast_as_a_count_of_all_kernels_says(base: str, tokens_per_second: int) -> None:
    """The numbers come of the operations of a whole simulated step, each at its own cost."""
    seconds = step_seconds(recipe(gradient_checkpointing=True), shape_of(base), CARD)
    assert seconds.tokens_per_second == pytest.approx(tokens_per_second, rel=0.1)
    parts = seconds.matrix + seconds.elements + seconds.attention + seconds.dequantization
    assert seconds.step == pytest.approx(max(parts, seconds.dispatch))


def test_fewer_checkpointed_layers_take_less_time_and_tiny_batches_wait_for_the_processor() -> None:
    facts = shape_of("meta-llama/Llama-3.1-8B")
    whole, some, all_layers = (
        recipe(),
        recipe(gradient_checkpointing=True, uncheckpointed_layers=16),
        recipe(gradient_checkpointing=True),
    )
    assert [passes(each, facts) for each in (whole, some, all_layers)] == [2.0, 2.5, 3.0]
    times = [step_seconds(each, facts, CARD).step for each in (whole, some, all_layers)]
    assert times == sorted(times)
    tiny = step_seconds(recipe(max_length=64, micro_batch_size=1), facts, CARD)
    assert tiny.step == tiny.dispatch


def test_cards_are_told_apart_by_their_whole_name() -> None:
    assert speed_of("NVIDIA GeForce RTX 4070 Ti") == CARD
    assert speed_of("NVIDIA GeForce RTX 4070 Ti SUPER") is None
    assert speed_of("Tesla T4") is None


def test_the_first_steps_correct_the_plan_once_they_have_warmed_up() -> None:
    assert corrected(10.0, []) == 10.0
    assert corrected(10.0, [30.0, 14.0, 12.0]) == 10.0
    assert corrected(10.0, [30.0, 14.0, 12.0, 11.0, 13.0, 11.5]) == 11.5
    assert corrected(None, [30.0, 14.0, 12.0]) is None


def test_what_is_left_is_forecast_stage_by_stage_from_a_runs_own_steps() -> None:
    """100 steps, 40 of them DPO, on a machine that nothing is known of: 2 s a step, then 5 s a step."""
    pairs = (Source(name="a", path="a"), Source(name="b", path="b", use="preference"))
    ends = Course.of(recipe(examples=800, dpo_share=0.4, sources=pairs)).now
    forecast = Forecast(None)
    sft = [forecast.left_s("sft", step, 9.0 if step <= 3 else 2.0, ends) for step in range(1, 61)]
    assert sft[:3] == [None] * 3
    assert sft[3] == pytest.approx(56 * 2.0 + 40 * DPO_TIMES * 2.0)
    assert sft[-1] == pytest.approx(40 * DPO_TIMES * 2.0)
    dpo = [forecast.left_s("dpo", step, 5.0, ends) for step in range(61, 101)]
    assert dpo[2] == pytest.approx(37 * DPO_TIMES * 2.0)
    assert dpo[3] == pytest.approx(36 * 5.0)
    assert dpo[-1] == 0.0
    short = Course.of(recipe(examples=80)).now
    assert Forecast(10.0).left_s("sft", 1, 30.0, short) == 90.0  # by the plan, while steps warm up


def test_a_calibration_is_kept_for_its_card_and_used_by_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "NVIDIA GeForce RTX 4070 Ti"
    assert context_bytes("cuda", name) == (ASSUMED["cuda"], False)
    measured = Calibration(card=name, torch="2.13.0", context_bytes=300 * 2**20, constant_bytes=64 * 2**20)
    keep(measured)
    assert known(name) == measured
    assert context_bytes("cuda", name) == (364 * 2**20, True)
    assert context_bytes("cuda", "another card") == (ASSUMED["cuda"], False)
    facts = shape_of("Qwen/Qwen2.5-7B")
    less = plan(recipe(), facts, "cuda").peak_bytes - plan(recipe(), facts, "cuda", 364 * 2**20).peak_bytes
    assert less == ASSUMED["cuda"] - 364 * 2**20
    next(tmp_path.rglob("*.json")).write_text("damaged", encoding="utf-8")
    assert known(name) is None
