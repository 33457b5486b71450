"""Paired comparisons: what must hold of any two models, known values, and intervals that hold what they promise."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.compare import METHOD, Comparison, compare, mcnemar, tango
from objectives.score import ObjectiveError, Verdict

TYPES = ("punctuation:no_comma", "startend:quotation", "detectable_format:title")


def verdict(key: int, *strict: bool, loose: bool = False, types: tuple[str, ...] | None = None) -> Verdict:
    """An answer's verdicts; `loose` forgives everything."""
    return Verdict(
        key=key,
        instruction_id_list=types or TYPES[: len(strict)],
        strict=strict,
        loose=tuple(one or loose for one in strict),
        tokens=5,
        capped=False,
    )


def decided(key: int, followed: bool) -> Verdict:
    return Verdict(
        key=key,
        instruction_id_list=TYPES[:1],
        strict=(followed,),
        loose=(None,),
        tokens=5,
        capped=False,
        decided=True,
    )


ANSWER = st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.booleans())
PAIRS = st.lists(st.tuples(st.integers(1, 3), ANSWER, ANSWER), min_size=1, max_size=30)


def models(pairs: list[tuple[int, tuple[list[bool], bool], tuple[list[bool], bool]]]) -> list[list[Verdict]]:
    """The verdicts of two models on prompts with one to three instructions."""
    return [
        [verdict(key, *row[side][0][: row[0]], loose=row[side][1]) for key, row in enumerate(pairs)] for side in (1, 2)
    ]


@settings(max_examples=50)
@given(PAIRS)
def test_exchanging_the_models_mirrors_everything(pairs: list) -> None:  # type: ignore[type-arg]
    a, b = models(pairs)
    there, back = compare(a, b), compare(b, a)
    assert (there.gained, there.lost, there.p) == (back.lost, back.gained, back.p)
    for metrics, mirrored in ((there.metrics, back.metrics), (there.by_type, back.by_type)):
        assert metrics.keys() == mirrored.keys()
        for name, one in metrics.items():
            other = mirrored[name]
            assert (one.a, one.b) == (other.b, other.a)
            assert (one.difference, one.low, one.high) == (-other.difference, -other.high, -other.low)


@settings(max_examples=50)
@given(PAIRS)
def test_the_parts_add_up_and_intervals_hold_their_difference(pairs: list) -> None:  # type: ignore[type-arg]
    made = compare(*models(pairs))
    assert made.both + made.neither + len(made.gained) + len(made.lost) == made.n == len(pairs)
    assert set(made.metrics) == {"prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"}
    for one in (*made.metrics.values(), *made.by_type.values()):
        assert -1 <= one.low <= one.difference <= one.high <= 1
        assert one.difference == pytest.approx(one.b.value - one.a.value)
    assert Comparison.model_validate_json(made.model_dump_json()) == made


@settings(max_examples=50)
@given(PAIRS)
def test_a_model_against_itself_does_not_differ(pairs: list) -> None:  # type: ignore[type-arg]
    a, _ = models(pairs)
    made = compare(a, a)
    assert (made.p, made.gained, made.lost) == (1.0, (), ())
    assert all(one.difference == 0 for one in (*made.metrics.values(), *made.by_type.values()))
    assert all(one.low == -one.high < 0 for one in made.metrics.values())


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == 2 / 2**5
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(12, 4) == 2 * (1 + 16 + 120 + 560 + 1820) / 2**16


def test_the_interval_is_tango_s() -> None:
    """Where nothing is discordant, z squared / (n + z squared); else the ends solve his equation."""
    low, high = tango(0, 0, 44)
    assert (low, high) == (pytest.approx(-0.0803, abs=1e-4), pytest.approx(0.0803, abs=1e-4))
    low, high = tango(9, 3, 44)  # the score test with the constrained variance has |z| = 1.96 at both ends
    for end in (low, high):
        nuisance = _constrained(9, 3, 44, end)
        z = (9 - 3 - 44 * end) / (44 * (2 * nuisance + end * (1 - end))) ** 0.5
        assert abs(z) == pytest.approx(1.96, abs=1e-3)
    assert tango(3, 0, 3)[1] == 1.0


def _constrained(gained: int, lost: int, n: int, difference: float) -> float:
    """The maximum likelihood of the lost share under a given difference, by search instead of by formula."""

    def likelihood(share: float) -> float:
        rest = 1 - 2 * share - difference
        return gained * math.log(share + difference) + lost * math.log(share) + (n - gained - lost) * math.log(rest)

    low, high = max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9
    for _ in range(200):
        third = (high - low) / 3
        left, right = low + third, high - third
        low, high = (left, high) if likelihood(left) < likelihood(right) else (low, right)
    return low


def drawn_pairs(chance: random.Random, n: int) -> list[tuple[bool, bool]]:
    """Verdicts of two models whose true difference is 8 points; both find the same prompts easy."""
    easy = [0.8 if chance.random() < 0.5 else 0.2 for _ in range(n)]
    return [(chance.random() < share - 0.04, chance.random() < share + 0.04) for share in easy]


def test_tango_s_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    chance, covered = random.Random(0), 0
    for _ in range(1000):
        pairs = drawn_pairs(chance, 100)
        low, high = tango(sum(b > a for a, b in pairs), sum(a > b for a, b in pairs), 100)
        covered += low <= 0.08 <= high
    assert 930 <= covered <= 970


def test_the_interval_of_instructions_covers_though_those_of_a_prompt_stand_and_fall_together() -> None:
    made = {(key, one): verdict(key, one, one) for key in range(60) for one in (True, False)}
    chance, covered = random.Random(1), 0
    for _ in range(200):
        pairs = list(enumerate(drawn_pairs(chance, 60)))
        compared = compare([made[key, a] for key, (a, _) in pairs], [made[key, b] for key, (_, b) in pairs])
        one = compared.metrics["instruction_strict"]
        covered += one.low <= 0.08 <= one.high
    assert 182 <= covered <= 198  # one that takes them for independent covers 171


def test_only_the_prompts_that_both_answered_count() -> None:
    made = compare([verdict(1, True), verdict(2, False)], [verdict(2, True), verdict(3, True), verdict(4, True)])
    assert (made.n, made.only_a, made.only_b, made.gained) == (1, 1, 2, (2,))
    assert "McNemar" in METHOD


def test_answers_that_were_ended_early_leave_the_strict_prompts_alone() -> None:
    made = compare([decided(1, True), verdict(2, False)], [verdict(1, True), verdict(2, True)])
    assert set(made.metrics) == {"prompt_strict", "instruction_strict"}
    half = Verdict(
        key=1, instruction_id_list=TYPES[:2], strict=(False, None), loose=(None, None), tokens=1, capped=False,
        decided=True,
    )  # fmt: skip
    made = compare([half], [verdict(1, True, True)])
    assert (set(made.metrics), made.by_type, made.gained) == ({"prompt_strict"}, {}, (1,))


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="no prompt is common to the two: 1 and 2 were asked"):
        compare([verdict(1, True)], [verdict(2, True), verdict(3, True)])
    with pytest.raises(ObjectiveError, match="prompt 1 has other instructions in the one than in the other"):
        compare([verdict(1, True)], [verdict(1, True, types=TYPES[1:2])])
