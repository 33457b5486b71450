"""A horizon that follows the clock: 24 simulated hours, with the real decisions and the real file of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_train import make_recipe

from train.decisions import Decisions, holding
from train.horizon import Course, Decision, Fixed, StageName
from train.hours import ByHours, Replayed
from train.recipe import Recipe, RecipeError

DAY_S = 24 * 3600.0


class Time:
    """The seconds used, turned by hand."""

    spent_s = 0.0


def long_recipe(steps: int = 5000, **fields: Any) -> Recipe:
    return make_recipe(Path("base"), examples=4 * steps, **fields)


def longest(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"examples": 4 * recipe.examples})


class Simulated:
    """A run on a machine whose steps take `step_s`, drifting by 30 %, and which is cut at some hour of each night.

    `cuts`: seconds of a night; a known switch-off saves first, any other one loses what came after the checkpoint.
    """

    def __init__(self, path: Path, recipe: Recipe, seed: int, night_s: float, *, saves: bool) -> None:
        self.draw, self.time, self.recipe = random.Random(seed), Time(), recipe
        self.decisions, self.night_s, self.saves = Decisions(path, recipe), night_s, saves
        self.step_s = 12.0 * self.draw.uniform(0.5, 2.0)
        self.drift = self.loaded_s = self.longest_s = 0.0
        self.step = 0
        self.held: tuple[int, tuple[Decision, ...]] = (0, ())

    def took_s(self, stage: StageName) -> float:
        self.drift = min(0.3, max(-0.3, self.drift + self.draw.gauss(0, 0.004)))
        noise = self.draw.uniform(0.8, 1.2)
        return self.step_s * (1 + self.drift) * noise * (2.0 if stage == "dpo" else 1.0)

    def night(self) -> bool:
        """Go on until the run or the night is over; whether the run is."""
        time, begun_s, loads_s = self.time, self.time.spent_s, self.draw.uniform(30, 120)
        over = DAY_S - time.spent_s <= 1.1 * self.loaded_s + 2 * self.longest_s  # as train.final reckons
        if not over:
            time.spent_s += loads_s
            self.loaded_s = max(self.loaded_s, loads_s)
        horizon = ByHours(
            self.recipe, longest(self.recipe), self.decisions, time, DAY_S, longest_s=self.longest_s, over=over
        )
        self.step, decisions = self.held
        horizon.resume(decisions, self.step)
        saved_s = time.spent_s
        stage: StageName | None = None
        while self.step < horizon.course.now.steps:
            before = stage
            stage = "sft" if self.step < horizon.course.now.sft_steps else "dpo"
            if stage == before:
                horizon.begin_step()
            else:
                time.spent_s += 20.0 if before else 0.0  # the trainer of the second stage is made
                horizon.begin_stage()
            time.spent_s += self.took_s(stage)
            self.step += 1
            horizon.made(stage, self.step)
            fresh = sum(horizon.course.step_at(tenth / 10) == self.step for tenth in range(1, 11))
            ends = time.spent_s - begun_s > self.night_s
            if fresh or time.spent_s - saved_s > 1200 or (ends and self.saves):
                pause_s = 4.0 + 30.0 * bool(fresh)
                time.spent_s += pause_s
                self.longest_s = max(self.longest_s, pause_s)
                saved_s, self.held = time.spent_s, (self.step, horizon.course.decisions)
            if ends and self.step < horizon.course.now.steps:
                time.spent_s += 0.0 if self.saves else self.draw.uniform(0, 10)  # the lease that a kill costs
                return False
        self.course = horizon.course
        time.spent_s += 1.0  # the adapter
        return True


def day(path: Path, seed: int) -> None:
    """One run over its nights; of four seeds one has DPO and known switch-offs, and so on."""
    recipe = long_recipe(dpo_share=0.25 * (seed % 2))
    night_s = random.Random(seed).uniform(4, 9) * 3600
    run = Simulated(path, recipe, seed, night_s, saves=bool(seed // 2 % 2))
    while not run.night():
        pass
    assert 0.97 * DAY_S <= run.time.spent_s <= DAY_S, seed
    assert run.course.decisions == tuple(holding(path, run.recipe))


@pytest.mark.parametrize("seed", range(4))
def test_a_day_of_nights_is_used(tmp_path: Path, seed: int) -> None:
    day(tmp_path / "horizon.jsonl", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_every_day_of_nights_is_used(tmp_path: Path, seed: int) -> None:
    day(tmp_path / "horizon.jsonl", seed)


@given(
    revisions=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 300)), max_size=6),
    share=st.sampled_from([0.0, 0.3]),
)
def test_the_schedule_goes_on_from_where_it_was(revisions: list[tuple[int, int]], share: float) -> None:
    recipe = long_recipe(steps=200, dpo_share=share)
    course, at = Course.of(recipe), 0
    for later, left in revisions:
        at += later
        if at >= course.now.sft_steps:
            break
        before = course.place("sft", at), course.progress(at)
        course = course.after(Decision(at, at + left, at + left + (left if share else 0), "pace"))
        assert (course.place("sft", at), course.progress(at)) == pytest.approx(before)
    now = course.now
    shares = [course.progress(step) for step in range(now.steps + 1)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
    assert course.place("sft", now.sft_steps) == pytest.approx(recipe.sft_steps)
    assert course.place("dpo", now.sft_steps) == 0.0
    assert course.place("dpo", now.steps) == pytest.approx(recipe.dpo_steps)


@given(steps=st.integers(1, 500), share=st.sampled_from([0.0, 0.3]), fraction=st.floats(0.001, 1.0))
def test_a_recipes_own_horizon_is_exact(steps: int, share: float, fraction: float) -> None:
    recipe = long_recipe(steps=steps, dpo_share=share)
    course = Fixed(recipe).course
    assert course.step_at(fraction) == recipe.step_at(fraction)
    assert [course.place("sft", step) for step in range(recipe.sft_steps + 1)] == list(range(recipe.sft_steps + 1))


def test_decisions_that_were_made_again_hold_no_more_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    recipe, path = long_recipe(), tmp_path / "horizon.jsonl"
    written = Decisions(path, recipe)
    made = [Decision(step, 900, 900, "pace") for step in (0, 100, 200, 150)]
    for decision in made:
        written.append(decision, 1.0)
    with open(path, "ab") as file:
        file.write(b'{"step": 170, "sft_st')
    assert written.read() == [made[0], made[1], made[3]]
    written.append(Decision(180, 800, 800, "pace"), 2.0)
    assert [decision.step for decision in written.read()] == [0, 100, 150, 180]


def test_decisions_of_another_recipe_are_refused(tmp_path: Path) -> None:
    Decisions(tmp_path / "h", long_recipe()).append(Decision(0, 9, 9), 0.0)
    with pytest.raises(RecipeError, match="has the decisions of another recipe"):
        holding(tmp_path / "h", long_recipe(rank=8))


def test_a_replay_takes_each_decision_at_its_step() -> None:
    recipe = long_recipe()
    given_ones = (Decision(0, 5000, 5000), Decision(10, 4000, 4000, "pace"), Decision(20, 30, 30, "hours"))
    again = Replayed(recipe, recipe, given_ones)
    again.resume((), 0)
    ends = []
    for step in range(1, 21):
        again.made("sft", step)
        ends.append(again.course.now.steps)
    assert ends == [5000] * 9 + [4000] * 10 + [30]
