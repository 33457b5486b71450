"""The final race as a pure function: who asks next, who is out, who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.score import Measure
from search.finals import ERROR_RATE, Finalist, Race, Turn, run, stages

ENDS = (10, 20, 30, 40)


def finalist(trial: int, followed: int, fresh: Sequence[bool] = (), failed: str = "") -> Finalist:
    """One that followed so many of 64 reference prompts."""
    return Finalist(trial, Measure.of([n < followed for n in range(64)]), tuple(fresh), failed)


def race(*finalists: Finalist) -> Race:
    return run(finalists, ENDS, ENDS[-1])


def test_stages_are_whole_batches_of_about_a_quarter() -> None:
    assert stages(142, 16) == (48, 96, 142)
    assert stages(80, 64) == (20, 40, 60, 80)
    assert stages(4, 8) == (4,)
    assert stages(0, 8) == ()


def test_all_answer_a_stage_before_any_answers_the_next() -> None:
    assert race(finalist(3, 50), finalist(1, 49)).next == Turn(3, 0, 10)
    assert race(finalist(3, 50, [True] * 10), finalist(1, 49)).next == Turn(1, 0, 10)
    told = race(finalist(3, 50, [True] * 10), finalist(1, 49, [True] * 10))
    assert (told.next, told.asked, told.winner) == (Turn(3, 10, 20), 10, None)
    assert str(told) == "the final race of 2 is not over: 10 of 40 fresh prompts asked"
    assert told.brief == "the final race is not over"


def test_one_that_is_clearly_behind_is_out_and_the_last_one_left_wins_at_once() -> None:
    told = race(finalist(3, 60, [False] * 10), finalist(1, 40, [True] * 10), finalist(2, 41, [False] * 10))
    assert told.next is None
    assert told.winner == 1
    assert [each.out for each in told.runners] == ["behind trial 1 after 10 prompts", "", told.runners[0].out]
    assert told.fresh == Measure.of([True] * 10)
    assert str(told) == "trial 1 won the final race of 3: 1.000, ≥ 0.722 on 10 fresh prompts"
    assert told.brief == "trial 1 won the final race"


def test_between_those_that_nothing_tells_apart_the_fresh_prompts_decide() -> None:
    better, luckier = [n % 2 == 0 for n in range(40)], [n % 2 == 0 for n in range(38)] + [True, True]
    told = race(finalist(5, 60, better), finalist(7, 48, luckier))
    assert (told.winner, told.asked) == (7, 40)
    assert [each.out for each in told.runners] == ["", ""]
    assert race(finalist(5, 50, better), finalist(4, 51, better)).winner == 4  # of equals, by what they were picked for
    assert race(finalist(5, 50, better), finalist(4, 50, better)).winner == 4  # else the older


def test_who_races_alone_answers_everything_for_the_score() -> None:
    assert race(finalist(2, 50)).next == Turn(2, 0, 10)
    told = race(finalist(2, 50, [True, False] * 20))
    assert told.winner == 2
    assert str(told) == "trial 2 won the final race, alone: 0.500 ± 0.079 on 40 fresh prompts"


def test_one_that_cannot_be_asked_is_left_out() -> None:
    told = race(finalist(2, 50, failed="could not be asked: no adapter"), finalist(1, 40, [True] * 40))
    assert (told.winner, told.runners[0].out) == (1, "could not be asked: no adapter")
    nobody = race(finalist(2, 50, failed="could not be asked: no adapter"))
    assert (nobody.winner, nobody.next) == (None, None)
    assert str(nobody) == "the final race has no winner: none could be asked"
    assert nobody.brief == "the final race has no winner"


VERDICTS = st.lists(st.booleans(), min_size=40, max_size=40)
FIELDS = st.dictionaries(st.integers(0, 30), st.tuples(st.integers(0, 64), VERDICTS), min_size=1, max_size=4)


def played(field: Mapping[int, tuple[int, Sequence[bool]]], had: Mapping[int, int]) -> Race:
    """The race from its beginning, turn by turn; some have answered so many prompts before, in an earlier race."""
    given = {trial: finalist(trial, score, fresh[: had[trial]]) for trial, (score, fresh) in field.items()}
    while turn := run(tuple(given.values()), ENDS, 40).next:
        one = given[turn.trial]
        assert len(one.fresh) == turn.begin
        given[turn.trial] = replace(one, fresh=tuple(field[turn.trial][1][: turn.end]))
    return run(tuple(given.values()), ENDS, 40)


@given(field=FIELDS, data=st.data())
def test_who_wins_follows_from_the_verdicts_alone(
    field: dict[int, tuple[int, list[bool]]], data: st.DataObject
) -> None:
    plain = played(field, dict.fromkeys(field, 0))
    order = data.draw(st.permutations(list(field)))
    had = {trial: data.draw(st.sampled_from((0, *ENDS))) for trial in field}
    other = played({trial: field[trial] for trial in order}, had)
    assert (other.winner, other.asked) == (plain.winner, plain.asked)
    out = {each.trial: each.out for each in plain.runners}
    assert {each.trial: bool(each.out) for each in other.runners} == {trial: bool(why) for trial, why in out.items()}
    assert plain.winner is not None
    assert not out[plain.winner]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_one_is_seldom_put_out(seed: int) -> None:
    """Three that are as good: whichever one calls the best is out in a tenth of the races at most."""
    import random

    draw, out, races = random.Random(seed), 0, 400
    for _ in range(races):
        told = played({n: (32, [draw.random() < 0.5 for _ in range(40)]) for n in range(3)}, dict.fromkeys(range(3), 0))
        out += bool(told.runners[0].out)
    assert out <= races * ERROR_RATE + 3 * (races * ERROR_RATE) ** 0.5
