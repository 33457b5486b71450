"""The cost model: what the plan says first, what a study's own trials teach it, and what it never unlearns."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import config, cost_record, space
from search.cost import CAUSES, Costs, Observation, Terms, Work
from train.planning.plan import SPEEDS, Answers, shape_of
from train.recipe import Recipe
from train.rundir import RunDir, write_json

QWEN = shape_of("Qwen/Qwen2.5-7B")
TERMS = Terms(QWEN, SPEEDS[0], (0.25, 0.5, 1.0), Answers(128, 16, 64, 512))
STUDY = config.load(Path(config.__file__).parent / "presets" / "rtx-4070-ti.toml")
TRUE = {"machine": 0.5, "dpo": -0.3, "length": 0.1, "modules": 0.05}


def recipe(**params: Any) -> Recipe:
    made = space.recipe(STUDY, {"rank": 16, "batch_size": 16, "max_length": 512, "dropout": 0.0, **params})
    return made.model_copy(update={"uncheckpointed_layers": 10})


def recipes(count: int, seed: int) -> list[Recipe]:
    drawn = random.Random(seed)
    return [
        recipe(
            rank=drawn.choice([8, 32, 128]),
            targets=drawn.choice(["all-linear", "mlp", "attention"]),
            batch_size=drawn.choice([8, 16, 32]),
            max_length=drawn.choice([512, 1024]),
            dpo_share=drawn.choice([0.0, 0.2, 0.4]),
        )
        for _ in range(count)
    ]


def measured(work: Work, noise: random.Random, sd: float = 0.05) -> Mapping[str, float]:
    """What a machine takes that differs from the plan in a way that the model can learn."""
    log = sum(slope * work.features[name] for name, slope in TRUE.items())
    factors = {"train": math.exp(log), "score": 0.5}
    return {c: s * factors.get(c, 1.3) * math.exp(noise.gauss(0, sd)) for c, s in work.planned.items() if s}


def test_five_trials_teach_the_seconds_of_all_others() -> None:
    noise, errors = random.Random(0), {0: [], 5: [], 20: []}  # type: ignore[var-annotated]
    seen = [TERMS.work(each) for each in recipes(60, seed=1)]
    took = [measured(work, noise) for work in seen]
    for learned in errors:
        costs = Costs.learn([Observation(*each) for each in list(zip(seen, took, strict=True))[:learned]])
        pairs = list(zip(seen, took, strict=True))[learned:]
        errors[learned] = [abs(costs.of(work).seconds / sum(real.values()) - 1) for work, real in pairs]
    middle = {learned: statistics.median(found) for learned, found in errors.items()}
    assert middle[5] < 0.10 < middle[0]
    assert middle[20] < 0.06


def test_a_trial_that_somebody_else_made_slow_moves_little() -> None:
    works = [TERMS.work(each) for each in recipes(12, seed=2)]
    quiet = [Observation(work, dict(work.planned)) for work in works]
    odd = [*quiet[:-1], Observation(works[-1], {cause: 8 * s for cause, s in works[-1].planned.items()})]
    wanted = TERMS.work(recipe())
    assert Costs.learn(odd).of(wanted).seconds == pytest.approx(Costs.learn(quiet).of(wanted).seconds, rel=0.10)


@settings(max_examples=25)
@given(cut=st.sampled_from([0.25, 0.5, 0.75]), share=st.sampled_from([0.0, 0.2, 0.4]))
def test_two_stretches_take_what_the_whole_takes_but_for_what_each_does_once(cut: float, share: float) -> None:
    made = recipe(dpo_share=share)
    costs = Costs.learn()
    first, second, whole = (costs.of(TERMS.work(made, to, at)) for at, to in ((0.0, cut), (cut, 1.0), (0.0, 1.0)))
    for cause in ("train", "probe", "score"):
        assert first.by_cause[cause] + second.by_cause[cause] == pytest.approx(whole.by_cause[cause], rel=1e-6)
    assert first.by_cause["score"] == 0.0


@given(
    rank=st.sampled_from([8, 64, 128]),
    length=st.sampled_from([128, 512, 1024]),
    share=st.sampled_from([0.0, 0.4]),
    learned=st.integers(0, 3),
)
@settings(max_examples=25)
def test_estimates_are_positive_and_add_up(rank: int, length: int, share: float, learned: int) -> None:
    work = TERMS.work(recipe(rank=rank, max_length=length, dpo_share=share))
    made = Costs.learn([Observation(work, dict.fromkeys(CAUSES, 3.0))] * learned).of(work)
    assert made.seconds == pytest.approx(sum(made.by_cause.values()))
    assert min(made.by_cause.values()) >= 0
    assert 0 < made.sd_log < 2


def test_more_work_is_planned_to_take_longer() -> None:
    costs = Costs.learn()

    def seconds(**params: Any) -> float:
        return costs.of(TERMS.work(recipe(**params))).seconds

    assert seconds(rank=128) > seconds(rank=8)
    assert seconds(max_length=1024) > seconds(max_length=512)
    assert seconds(dpo_share=0.4) > seconds(dpo_share=0.0)
    assert costs.of(TERMS.work(recipe(), load=True)).by_cause["load"] > 0
    fewer = TERMS.work(recipe(), prompts=32)
    assert costs.of(fewer).by_cause["score"] == pytest.approx(costs.of(TERMS.work(recipe())).by_cause["score"] / 4)


def test_the_more_is_known_the_surer_it_is() -> None:
    works = [TERMS.work(each) for each in recipes(10, seed=3)]
    sds = [Costs.learn([Observation(w, measured(w, random.Random(4))) for w in works[:n]]).of(works[-1]).sd_log
           for n in (0, 2, 5, 9)]  # fmt: skip
    assert sds == sorted(sds, reverse=True)


def test_a_studys_runs_are_what_it_learns_from(tmp_path: Path) -> None:
    seconds = {"data": 0.3, "train": 200.0, "probe": 3.0, "save": 0.2}
    results: dict[str, Any] = {
        "000": {"outcome": "completed", "seconds": {**seconds, "score": 90.0}, "race": {"asked": 128}},
        "001": {"outcome": "pruned", "seconds": seconds, "rungs": {"0.25": 1.5}},
        "002": {"outcome": "completed", "seconds": {**seconds, "score": 20.0}, "race": {"asked": 32}},
        "003": {"outcome": "failed", "seconds": seconds},
        "base": {"outcome": "completed", "seconds": {"score": 80.0}},
    }
    for name, result in results.items():
        run = RunDir(tmp_path / name)
        run.create(recipe())
        write_json(run.result, result)
    resumed = {"event": "resumed", "step": recipe().steps // 2}
    RunDir(tmp_path / "002").append_event(resumed)
    of = cost_record.terms(STUDY, QWEN, SPEEDS[0])
    found = cost_record.observations(tmp_path, of)
    assert len(found) == 3  # complete, pruned and behind; one that failed teaches nothing
    whole, pruned, behind = (each.work.planned for each in found)
    assert pruned["score"] == 0 < behind["score"] < whole["score"]
    assert pruned["train"] < behind["train"] == pytest.approx(whole["train"] / 2)  # it went on from its half
    assert Costs.learn(found).count == 3
