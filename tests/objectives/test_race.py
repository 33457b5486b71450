"""The order of the prompts, the race against the incumbent and its error rate, and values of trials ended early."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import product
from math import sqrt
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from objectives.race import Asked, Race, estimate, order
from objectives.score import ObjectiveError, Prompt

N = 48
PROMPTS = tuple(
    Prompt(key=key, prompt=f"Prompt {key}", instruction_id_list=("punctuation:no_comma",), kwargs=({},))
    for key in range(N)
)


def trial(followed: Mapping[int, bool], tokens: int = 100) -> dict[int, Asked]:
    return {key: Asked(followed=verdict, tokens=tokens) for key, verdict in followed.items()}


def marked(marks: str) -> dict[int, Asked]:
    """A trial's verdicts on the first prompts: 1 followed, 0 not, - not asked."""
    return trial({key: mark == "1" for key, mark in enumerate(marks) if mark != "-"})


def keys(prompts: Sequence[Prompt]) -> list[int]:
    return [prompt.key for prompt in prompts]


# ---- order


def test_prompts_that_tell_earlier_trials_apart_come_first() -> None:
    #                     always  never  agrees with the rank  contradicts it
    earlier = [marked("10110"), marked("10110"), marked("10001")]
    assert keys(order(PROMPTS[:5], earlier)) == [2, 3, 4, 0, 1]


def test_of_prompts_that_tell_as_much_the_one_with_shorter_answers_comes_first() -> None:
    good, bad = trial(dict.fromkeys(range(4), True)), trial(dict.fromkeys(range(4), False))
    good[2] = Asked(followed=True, tokens=20)
    assert keys(order(PROMPTS[:4], [good, bad])) == [2, 0, 1, 3]


def test_that_a_prompt_agrees_with_itself_does_not_count() -> None:
    earlier = [marked(marks) for marks in ("110", "100", "001", "000")]
    for one in earlier:
        one[0] = Asked(followed=one[0].followed, tokens=10)  # were the two first equal, it would come first
    assert keys(order(PROMPTS[:3], earlier)) == [1, 0, 2]


@pytest.mark.parametrize("earlier", [[], [marked("10")], [marked("1-"), marked("-0")], [marked(""), marked("11")]])
def test_where_no_two_trials_can_be_told_apart_the_order_stays(earlier: list[dict[int, Asked]]) -> None:
    assert order(PROMPTS[:2], earlier) == PROMPTS[:2]


verdicts = st.dictionaries(st.integers(0, 14), st.tuples(st.booleans(), st.integers(0, 50)))
some_trials = st.lists(verdicts, max_size=6).map(
    lambda rows: [{key: Asked(followed=v, tokens=n) for key, (v, n) in row.items()} for row in rows]
)


@settings(deadline=None, max_examples=50)
@given(some_trials, st.randoms(use_true_random=False))
def test_every_prompt_comes_once_whatever_the_order_of_the_trials(earlier, chance) -> None:
    ordered = order(PROMPTS[:12], earlier)
    assert sorted(keys(ordered)) == list(range(12))
    assert ordered == order(PROMPTS[:12], chance.sample(earlier, len(earlier)))
    varied = [len({t[p.key].followed for t in earlier if p.key in t}) > 1 for p in ordered]
    assert varied == sorted(varied, reverse=True)


# ---- race


def test_a_trial_that_only_loses_is_ended_once_it_can_no_longer_be_chance() -> None:
    race = Race(stages=(4, 8), error_rate=0.05)
    assert not race.behind([-1] * 4)  # one in 16, and the first look may spend one in 40
    assert not race.behind([-1] * 7)  # looked at after whole stages only
    assert race.behind([-1] * 8)
    assert race.behind([-1] * 8 + [1] * 8)  # as it was to be ended then
    assert not race.behind([0] * 8)
    assert not race.behind([1] * 8)


def test_a_race_without_stages_ends_nothing() -> None:
    assert not Race(stages=(), error_rate=0.5).behind([-1] * 100)


@pytest.mark.parametrize("stages", [(24, 24), (48, 24)])
def test_stages_that_do_not_rise_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match=rf"stages must rise, \({stages[0]}, {stages[1]}\) do not"):
        Race(stages=stages, error_rate=0.1)


@pytest.mark.parametrize("error_rate", [0.0, 1.0, -0.1])
def test_an_error_rate_is_between_nothing_and_certainty(error_rate: float) -> None:
    with pytest.raises(ValidationError, match="error_rate"):
        Race(stages=(24,), error_rate=error_rate)


def test_differences_of_something_else_than_verdicts_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="differences of verdicts are -1, 0 or 1"):
        Race(stages=(1,), error_rate=0.1).behind([2])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.booleans(), min_size=1, max_size=10),
    st.sets(st.integers(1, 10), min_size=1, max_size=4),
    st.floats(0.01, 0.9),
)
def test_of_all_ways_in_which_fair_coins_fall_no_larger_share_is_ended_than_stated(
    differ: list[bool], stages: set[int], error_rate: float
) -> None:
    """Exactly, over every outcome, at every look: the j-th of J has spent at most j/J of the error rate."""
    race = Race(stages=tuple(sorted(stages)), error_rate=error_rate)
    outcomes = list(product((-1, 1), repeat=sum(differ)))
    for look, stage in enumerate(race.stages, start=1):
        ended = 0
        for outcome in outcomes:
            tosses = iter(outcome)
            differences = [next(tosses) if d else 0 for d in differ][:stage]
            behind = race.behind(differences)
            ended += behind
            assert not behind or any(sum(differences[:s]) < 0 for s in race.stages[:look])
        assert ended / len(outcomes) <= error_rate * look / len(race.stages) + 1e-9


def test_what_earlier_looks_have_ended_is_not_paid_for_twice() -> None:
    race = Race(stages=(5, 8, 12), error_rate=0.3)
    share = fmean(race.behind(outcome) for outcome in product((-1, 1), repeat=12))
    assert 0.2 < share <= 0.3  # 0.16 where it is


# ---- the error rate, simulated: prompts of many difficulties, some of which no trial or every trial follows


def difficulties(chance: random.Random) -> list[float]:
    return [chance.uniform(-0.5, 1.0) for _ in range(N)]


def sample(ability: float, difficult: Sequence[float], chance: random.Random) -> dict[int, bool]:
    """A trial's verdicts: it follows a prompt with the probability ability less difficulty, cut to between 0 and 1."""
    return {key: chance.random() < ability - difficulty for key, difficulty in enumerate(difficult)}


def ended(race: Race, ordered: Sequence[Prompt], new: Mapping[int, bool], incumbent: Mapping[int, bool]) -> int | None:
    """After how many prompts the new trial is ended; None: never."""
    differences = [new[key] - incumbent[key] for key in keys(ordered)]
    return next((stage for stage in race.stages if race.behind(differences[:stage])), None)


def upper(errors: Sequence[bool]) -> float:
    """An upper 99.9 % confidence bound on the rate (normal approximation)."""
    rate = fmean(errors)
    return rate + 3.1 * sqrt(rate * (1 - rate) / len(errors))


@pytest.mark.parametrize(("stages", "error_rate"), [((12, 24, 36), 0.1), ((16, 32), 0.4)])
def test_trials_as_good_as_the_incumbent_are_ended_at_most_at_the_stated_rate(
    stages: tuple[int, ...], error_rate: float
) -> None:
    chance = random.Random(1)
    race = Race(stages=stages, error_rate=error_rate)
    errors = []
    for _ in range(60):
        difficult = difficulties(chance)
        ordered = order(PROMPTS, [trial(sample(ability, difficult, chance)) for ability in (0.4, 0.5, 0.7)])
        for _ in range(100):
            incumbent, new = (sample(0.6, difficult, chance) for _ in range(2))
            errors.append(ended(race, ordered, new, incumbent) is not None)
    assert upper(errors) < error_rate + 0.01
    assert fmean(errors) > error_rate / 4  # the rate that is allowed is used


def test_in_a_whole_search_few_trials_are_ended_that_would_have_reached_the_incumbent() -> None:
    """The incumbent is the best of those so far; the order learns from all others, ended or not."""
    chance = random.Random(2)
    race = Race(stages=(16, 32), error_rate=0.2)
    errors = []
    for _ in range(150):
        difficult = difficulties(chance)
        incumbent, *rest = (sample(chance.choice([0.5, 0.55]), difficult, chance) for _ in range(7))
        others: list[dict[int, Asked]] = []
        for new in rest:
            ordered = order(PROMPTS, others)
            stage = ended(race, ordered, new, incumbent)
            if sum(new.values()) >= sum(incumbent.values()):
                errors.append(stage is not None)
            asked = {key: new[key] for key in keys(ordered)[:stage]}
            if stage is None and sum(new.values()) > sum(incumbent.values()):
                asked, incumbent = incumbent, new
            others.append(trial(asked))
    assert len(errors) > 200
    assert upper(errors) < 0.2


def test_a_trial_that_is_much_worse_is_ended_early() -> None:
    chance = random.Random(3)
    race = Race(stages=(12, 24, 36), error_rate=0.2)
    stages = []
    for _ in range(20):
        difficult = difficulties(chance)
        ordered = order(PROMPTS, [trial(sample(ability, difficult, chance)) for ability in (0.3, 0.5, 0.7)])
        for _ in range(10):
            incumbent, bad = (sample(ability, difficult, chance) for ability in (0.8, 0.4))
            stages.append(ended(race, ordered, bad, incumbent) or N)
    assert fmean(stages) < 24
    assert fmean(stage < N for stage in stages) > 0.9


# ---- values


def test_a_trial_that_was_asked_everything_has_its_plain_accuracy() -> None:
    assert estimate({1: True, 2: False, 3: True, 4: True}, {1: True, 2: True, 3: True, 4: True}, [1, 2, 3, 4]) == 0.75
    assert estimate({1: True, 2: False}, None, [1, 2]) == 0.5


def test_what_was_not_asked_counts_as_what_was_asked_of_its_kind_leads_to_expect() -> None:
    incumbent = {1: True, 2: True, 3: True, 4: False}
    like, other = (16 + 1) / (20 + 2), 2 / 20  # the posterior means, but for the one in a thousand
    expected = (1 + like + other) / 4
    assert estimate({1: False, 2: True}, incumbent, [1, 2, 3, 4]) == pytest.approx(expected, abs=1e-3)
    assert estimate({1: True, 2: True}, incumbent, [1, 2, 3, 4]) < 0.75  # what lies below the incumbent stays below
    assert estimate({1: False, 2: True, 3: True}, incumbent, [1, 2, 3, 4]) == 0.5


def test_a_trial_that_follows_nothing_is_worth_next_to_nothing() -> None:
    """Of 24 prompts, 16 of them followed by the incumbent, none: a reader has to see that it came to nothing."""
    incumbent = {key: key < 16 or 24 <= key < 53 for key in range(64)}
    hopeless, middling = dict.fromkeys(range(24), False), {key: key < 11 for key in range(24)}
    assert estimate(hopeless, incumbent, range(64)) < 0.05
    assert 0.4 < estimate(middling, incumbent, range(64)) < 0.55


def test_without_an_incumbent_the_prompts_asked_stand_for_all() -> None:
    assert estimate({1: True, 2: False, 9: True}, None, [1, 2, 3]) == 0.5


def test_a_value_of_nothing_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="asked no reference prompt has no value; ask it at least one stage"):
        estimate({7: True}, None, [1])
    with pytest.raises(ObjectiveError, match="the incumbent was not asked prompt 2"):
        estimate({1: True}, {1: True}, [1, 2])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=30),
    st.sets(st.integers(1, 29), min_size=1, max_size=3),
    st.floats(0.05, 0.95),
)
def test_a_trial_that_is_ended_is_below_the_incumbent(pairs, stages: set[int], error_rate: float) -> None:
    race = Race(stages=tuple(sorted(stages)), error_rate=error_rate)
    new, incumbent = ({key: pair[side] for key, pair in enumerate(pairs)} for side in (0, 1))
    reference = list(range(len(pairs)))
    for stage in race.stages:
        asked = reference[:stage]
        if race.behind([new[key] - incumbent[key] for key in asked]):
            value = estimate({key: new[key] for key in asked}, incumbent, reference)
            assert 0 <= value < fmean(incumbent.values())
            return
