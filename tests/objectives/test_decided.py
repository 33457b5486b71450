"""Decided answers: what can be decided early is, and no verdict that was decided changes.

The judges are lm-eval's own checkers: on texts at the edge of every rule, and on published answers.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import nltk.data
import pytest
from decided_cases import (
    EDGES,
    ENDS,
    LEAST,
    LESS,
    NO_COMMA,
    OPEN,
    QUOTATION,
    REPEAT,
    TITLE,
    Instruction,
    bullets,
    check,
    decide,
    existence,
    forbidden,
    frequency,
    letters,
    nth,
    postscript,
    prompt,
    sections,
    sentences,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.checkers import Check, fixed_world
from objectives.decided import UNDECIDABLE, Decider, followed, stops
from objectives.ifeval import load_prompts
from objectives.score import INSTRUCTIONS, Prompt
from objectives.sentences import fallback, punkt_available, splitter


@pytest.fixture(autouse=True, scope="module")
def _seeded() -> Iterator[None]:
    with fixed_world():
        yield


def test_every_type_has_a_rule_or_is_undecidable() -> None:
    assert {name for (name, _), *_ in EDGES} | set(UNDECIDABLE) == INSTRUCTIONS
    assert not {name for (name, _), *_ in EDGES} & set(UNDECIDABLE)


@pytest.mark.parametrize(("instruction", "before", "last", "verdict"), EDGES, ids=[edge[0][0] for edge in EDGES])
def test_a_verdict_is_decided_as_soon_as_it_is_final(
    instruction: Instruction, before: str, last: str, verdict: bool
) -> None:
    """Not earlier: `before` can go on to either verdict or its rule waits; and not wrongly, whatever follows."""
    assert decide(instruction, before) is None
    assert decide(instruction, before + last) is verdict
    judge = check(instruction)
    assert {judge(before + last + end) for end in ENDS} == {verdict}


@pytest.mark.parametrize(("instruction", "text", "rest"), OPEN, ids=[instruction[0] for instruction, *_ in OPEN])
def test_what_may_still_be_followed_is_not_decided_as_broken(instruction: Instruction, text: str, rest: str) -> None:
    assert [decide(instruction, text[:end]) for end in range(len(text) + 1)].count(False) == 0
    assert check(instruction)(text + rest)


def test_a_final_capital_sigma_may_become_another_small_letter() -> None:
    instruction = (REPEAT[0], {"prompt_to_repeat": "ΝΟΜΟΣ"})
    assert [check(instruction)(text) for text in ["ΝΟΜΟΣ", "ΝΟΜΟΣΑ"]] == [True, False]
    assert decide(instruction, "ΝΟΜΟΣ") is None
    assert decide(instruction, "νομος") is True


# ---- instructions that nothing can be known about


@pytest.mark.parametrize(
    "instruction",
    [
        letters(1, LESS, "#"),  # lm-eval draws another letter
        letters(1, LESS, "st"),
        words(-1, LESS),
        words(0, LESS),
        nth(1, 2, "one"),
        bullets(0),
        existence(),
        ("keywords:existence", {}),
        existence("sea$"),  # a regular expression may look at what follows
        forbidden("sea|salt"),
        frequency(1, LESS, "(sea)"),
        sections(1, "Section+"),
        postscript("P.S.*"),
        postscript("Σ"),
    ],
    ids=str,
)
def test_an_instruction_that_is_drawn_or_looks_ahead_is_never_decided(instruction: Instruction) -> None:
    for text in ["two\n\nwords # ! sea, salt. rr Section 1 P.S. Σ ", "* a\n- b\n* c", "first to the sea"]:
        assert decide(instruction, text) is None


@pytest.mark.parametrize(
    ("name", "kwargs", "texts"),
    [
        (
            "language:response_language",
            {"language": "de"},
            [
                "Der Fluss fließt langsam durch das Tal.",
                " The river runs through the valley to the sea." * 3,
                " Und der Fluss fließt weiter durch das nächste Tal bis zum Meer." * 6,
            ],
        ),
        ("startend:end_checker", {"end_phrase": "The end."}, ["It runs.\nThe end.", "\nOr does it?", "\nThe end."]),
    ],
    ids=list(UNDECIDABLE),
)
def test_what_is_undecidable_changes_again_and_again(name: str, kwargs: dict[str, str], texts: list[str]) -> None:
    judge = check((name, kwargs))
    grown = ["".join(texts[:n]) for n in (1, 2, 3)]
    assert [judge(text) for text in grown] == [True, False, True]
    assert [decide((name, kwargs), text) for text in grown] == [None] * 3


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
def test_of_a_blank_answer_nothing_is_decided(blank: str) -> None:
    every = [instruction for instruction, *_ in EDGES] + [(REPEAT[0], {"prompt_to_repeat": " "})]
    decider = Decider(prompt(*every))
    assert set(decider(blank)) == {None}
    assert not decider.stops(blank)


# ---- the prompt


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ((True,), True),
        ((False,), False),
        ((None,), None),
        ((True, True), True),
        ((True, None), None),
        ((None, False), False),
        ((True, False, None), False),
    ],
)
def test_one_broken_instruction_decides_a_prompt_and_otherwise_all_must(
    verdicts: tuple[bool | None, ...], whole: bool | None
) -> None:
    assert followed(verdicts) is whole


SEVERAL = [[TITLE, NO_COMMA], [TITLE, words(4, LEAST)], [TITLE, words(4, LESS)], [REPEAT, TITLE], [REPEAT, NO_COMMA]]
SEVERAL += [[TITLE, ("startend:end_checker", {"end_phrase": "a"})], [QUOTATION, words(4, LESS)], [TITLE]]


@settings(deadline=None, max_examples=50)
@given(
    several=st.sampled_from(SEVERAL),
    pieces=st.lists(st.sampled_from(["Name a river.", "<<a>>", '"', ",", " a ", " b", "\n"]), max_size=8),
)
def test_an_answer_stops_exactly_when_its_prompt_is_decided(several: list[Instruction], pieces: list[str]) -> None:
    one = prompt(*several)
    text = "".join(pieces)
    judges = [Check(one, index, exact=punkt_available()) for index in range(len(several))]
    (stop,) = stops([one])
    decided = followed(Decider(one)(text))
    assert stop(text) is (decided is not None)
    assert decided in (None, all(judge(text) for judge in judges))


def test_every_answer_has_its_own_stop() -> None:
    comma, title = stops([prompt(NO_COMMA), prompt(TITLE)])
    assert [comma("a, b"), comma("<<a>>"), title("a, b"), title("<<a>>")] == [True, False, False, True]


def test_the_trained_splitter_is_used_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    text = "It met Zz. Ruiz and "
    assert splitter() is fallback()
    assert decide(sentences(2, LESS), text) is False
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name, content in {"abbrev_types.txt": "zz", "collocations.tab": "", "sent_starters.txt": ""}.items():
        (folder / name).write_text(content)
    assert splitter() is fallback()  # one of its files is missing
    (folder / "ortho_context.tab").write_text("")
    assert splitter() is splitter() is not fallback()
    assert decide(sentences(2, LESS), text) is None


# ---- published answers


def test_no_verdict_changes_on_published_answers(research_data: Path) -> None:
    """Three models' answers to all prompts, looked at every 16 tokens of 4.3 characters: of each instruction, where its
    verdict is decided the checker says the same, and so it does at the end."""
    prompts = {one.key: one for one in load_prompts(research_data / "ifeval_input_data.jsonl")}
    with gzip.open(research_data / "ifeval_responses_three_models.jsonl.gz", "rt", encoding="utf-8") as file:
        answers = [(prompts[row["key"]], row["response"]) for row in map(json.loads, file) if row["prompt_matches"]]
    judged = 0
    for one, answer in answers:
        for instruction in zip(one.instruction_id_list, one.kwargs, strict=True):
            alone = Prompt(key=one.key, prompt=one.prompt, instruction_id_list=instruction[:1], kwargs=instruction[1:])
            first = _first_decided(alone, answer[: int(1280 * 4.3)])
            if first is not None:
                prefix, verdict = first
                judge = Check(alone, 0, exact=punkt_available())
                assert (judge(prefix), judge(answer)) == (verdict, verdict), (one.key, instruction, prefix)
                judged += 1
    assert len(answers) > 1600
    assert judged > 1000


def _first_decided(one: Prompt, answer: str) -> tuple[str, bool] | None:
    """The first prefix that decides the verdict on its only instruction, and the verdict."""
    if one.instruction_id_list[0] in UNDECIDABLE:
        return None
    decider = Decider(one)
    prefixes = (answer[: int(looked * 4.3)] for looked in range(16, int(len(answer) / 4.3) + 1, 16))
    return next(((prefix, verdict) for prefix in prefixes if (verdict := decider(prefix)[0]) is not None), None)
