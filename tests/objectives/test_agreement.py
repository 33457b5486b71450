"""Two forms of one model: how many answers are the same, where the others part, and what becomes of the score."""

from __future__ import annotations

import pytest

from objectives.agreement import agreement, texts
from objectives.score import ObjectiveError, Score, Verdict

NO_COMMA = ("punctuation:no_comma",)


def score(*followed: bool) -> Score:
    verdicts = [
        Verdict(key=key, instruction_id_list=NO_COMMA, strict=(one,), loose=(one,), tokens=3, capped=False)
        for key, one in enumerate(followed)
    ]
    return Score.of(verdicts, looped=0, empty=0, prompts_sha256="0" * 64, exact=True, seconds=1.0)


def samples(*responses: str) -> list[dict[str, object]]:
    return [{"key": key, "prompt": "", "response": response} for key, response in enumerate(responses)]


def test_equal_answers_are_the_same() -> None:
    found = texts(samples("one", "two"), list(reversed(samples("one", "two"))))
    assert (found.n, found.same, found.median_at, found.earliest) == (2, 2, None, None)


def test_where_answers_part_is_told_from_the_earliest_on() -> None:
    found = texts(samples("same", "a long text", "shorter", ""), samples("same", "a long tail", "short", "x"))
    assert (found.n, found.same, found.median_at) == (4, 1, 5)
    assert found.earliest is not None
    assert (found.earliest.key, found.earliest.at, found.earliest.a, found.earliest.b) == (3, 0, "", "x")


def test_long_answers_are_cut_where_they_part() -> None:
    found = texts(samples("a" + "b" * 500), samples("a" + "c" * 500))
    assert found.earliest is not None
    assert found.earliest.b == "c" * 60


def test_other_prompts_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="not asked the same prompts"):
        texts(samples("one"), samples("one", "two"))


def test_scores_are_compared_in_pairs_on_every_part_that_both_have() -> None:
    before, after = score(True, True, False, False), score(True, False, False, True)
    found = agreement(
        {"search": before, "all": before}, {"search": after}, samples("a", "b", "c", "d"), samples("a", "B", "c", "D")
    )
    assert found.scores.keys() == {"search"}
    paired = found.scores["search"].metrics["prompt_strict"]
    assert (paired.difference, found.scores["search"].gained, found.scores["search"].lost) == (0.0, (3,), (1,))
    assert paired.low < 0.0 < paired.high
    assert found.texts.same == 2
