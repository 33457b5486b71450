"""Two forms of one model: how many answers are the same, where the others part, and what becomes of the score."""

from __future__ import annotations

import json

import pytest

from objectives.agreement import Agreement, agreement, texts, told
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
    a, b = (one.model_dump(mode="json") for one in (before, after))
    made = agreement({"search": a, "all": a}, {"search": b}, samples("a", "b", "c", "d"), samples("a", "B", "c", "D"))
    found = Agreement.model_validate_json(json.dumps(made))
    assert found.scores.keys() == {"search"}
    paired = found.scores["search"].metrics["prompt_strict"]
    assert (paired.difference, found.scores["search"].gained, found.scores["search"].lost) == (0.0, (3,), (1,))
    assert paired.low < 0.0 < paired.high
    assert found.texts.same == 2


def test_what_a_final_run_says_of_its_merged_model() -> None:
    a, b = (score(*followed).model_dump(mode="json") for followed in ((True, True), (True, False)))
    agreed = agreement({"all": a}, {"all": b}, samples("a", "b"), samples("a", "c"))
    rates = {"first_token_s": {"p50": 0.0123, "p95": 0.02}, "tokens_per_s": {"p50": 41.26, "p95": 40.0}}
    merged = {"weights": "nf4", "bytes": 3 * 2**20, "latency": rates, "agreement": agreed}
    adapter, timed, scored = told({"latency": rates, "merged": merged})
    assert adapter == "one prompt at a time: 0.012 s to the first token, 41.3 tokens a second"
    assert timed == f"merged, {adapter}; 3.0 MiB"
    assert "(nf4): 0.500 ± 0.354, -0.500 (95 %: -0." in scored
    assert scored.endswith("; 1 of 2 answers are the same text")
    left_out = told({"latency": rates, "merged": {"left_out": "no room"}})
    assert left_out == [adapter, "the merged model was not looked at: no room"]
