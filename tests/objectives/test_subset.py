"""The halves and the fixed subsets: pure functions of the set of prompts, stratified, and never leaking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.score import ObjectiveError, Prompt
from objectives.subset import halves, rest, take

TYPES = ["punctuation:no_comma", "startend:quotation", "detectable_format:title", "combination:two_responses"]


def prompt(key: int, text: str, types: Sequence[str]) -> Prompt:
    return Prompt(key=key, prompt=text, instruction_id_list=tuple(types), kwargs=({},) * len(types))


def text(p: Prompt) -> str:
    return " ".join(p.prompt.casefold().split())


def types(prompts: Sequence[Prompt]) -> Counter[str]:
    return Counter(name for p in prompts for name in p.instruction_id_list)


some_types = st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True)
some_prompts = st.lists(st.tuples(st.integers(0, 60), some_types), min_size=2, max_size=80).map(
    lambda rows: [prompt(key, f"Prompt  {n}" if key % 2 else f"prompt {n}", t) for key, (n, t) in enumerate(rows)]
)
several_texts = some_prompts.filter(lambda prompts: len({text(p) for p in prompts}) > 1)


@settings(deadline=None)
@given(several_texts)
def test_halves_hold_every_prompt_once_and_share_no_text(prompts: list[Prompt]) -> None:
    search, sealed = halves(prompts)
    assert sorted(p.key for p in search + sealed) == [p.key for p in prompts]
    assert not {text(p) for p in search} & {text(p) for p in sealed}
    assert search
    assert sealed


@settings(deadline=None)
@given(several_texts, st.randoms(use_true_random=False))
def test_the_order_of_the_file_makes_no_difference(prompts: list[Prompt], chance) -> None:
    shuffled = chance.sample(prompts, len(prompts))
    assert halves(shuffled) == halves(prompts)
    assert take(shuffled, len(prompts) // 2) == take(prompts, len(prompts) // 2)


@settings(deadline=None)
@given(st.lists(st.sampled_from(TYPES), min_size=2, max_size=120))
def test_halves_of_single_instructions_differ_by_one_prompt_a_type(names: list[str]) -> None:
    search, sealed = halves([prompt(key, f"Prompt {key}", [name]) for key, name in enumerate(names)])
    for name in set(names):
        assert abs(types(search)[name] - types(sealed)[name]) <= 1
    assert abs(len(search) - len(sealed)) <= len(TYPES)


@settings(deadline=None)
@given(several_texts, st.data())
def test_a_smaller_subset_is_the_beginning_of_a_larger_one(prompts: list[Prompt], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(prompts)))
    assert take(prompts, n) == take(prompts, len(prompts))[:n]
    assert len({p.key for p in take(prompts, n)}) == n
    search, _ = halves(prompts)
    assert take(search, len(search)) == search


@settings(deadline=None)
@given(several_texts, st.data())
def test_the_rest_is_what_a_subset_leaves_out_and_is_spread_likewise(
    prompts: list[Prompt], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(prompts)))
    left = rest(prompts, n)
    assert sorted(p.key for p in left + take(prompts, n)) == [p.key for p in prompts]
    assert not left or take(left, len(left)) == left


def test_subsets_have_the_mixture_of_the_whole() -> None:
    prompts = [prompt(key, f"Prompt {key}", [TYPES[0 if key % 8 else 1]]) for key in range(256)]
    for n in (8, 32, 64, 128):
        assert abs(types(take(prompts, n))[TYPES[1]] - n / 8) <= 1


def test_the_choice_is_the_same_on_every_machine() -> None:
    prompts = [prompt(key, f"Prompt {key}", [TYPES[key % 3]]) for key in range(9)]
    search, sealed = halves(prompts)
    assert ([p.key for p in search], [p.key for p in sealed]) == ([5, 7, 4, 6], [1, 3, 8, 0, 2])


@pytest.mark.parametrize("n", [0, -1, 3])
def test_a_subset_of_a_wrong_size_is_refused(n: int) -> None:
    with pytest.raises(ObjectiveError, match=rf"a subset of {n} prompts was asked for; choose from 1 to 2"):
        take([prompt(1, "a", TYPES), prompt(2, "b", TYPES)], n)


def test_one_text_cannot_be_halved() -> None:
    with pytest.raises(ObjectiveError, match="2 prompts with one text cannot be halved"):
        halves([prompt(1, "a river", TYPES), prompt(2, "A  river", TYPES)])


def test_halves_of_the_published_prompts(research_data: Path) -> None:
    from objectives.ifeval import load_prompts

    prompts = load_prompts(research_data / "ifeval_input_data.jsonl")
    search, sealed = halves(prompts)
    assert {len(search), len(sealed)} == {270, 271}
    for name, count in types(prompts).items():
        assert abs(types(search)[name] - types(sealed)[name]) <= 1, (name, count)
    for n in (64, 128):
        chosen = types(take(search, n))
        assert all(abs(chosen[name] - count * n / len(search)) <= 2.5 for name, count in types(search).items())
