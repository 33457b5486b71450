"""What each filter leaves out and what it leaves, and that every row is accounted for."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import rehearsal_text
from train.data.filters import kept
from train.data.near import near_duplicates
from train.data.refusals import refuses
from train.data.rows import Example, Message, Pair, Row
from train.data.sources import inspect_sources, read
from train.recipe import Filters, PromptFile, RecipeError, Source


def chat(prompt: str, answer: str, language: str = "") -> Example:
    return Example((Message("user", prompt), Message("assistant", answer)), language)


def left(rows: list[Row], cap: int | None = None, **asked: Any) -> tuple[list[int], dict[str, int]]:
    """The rows that stay, and the counts of the others."""
    removed: Counter[str] = Counter()
    return kept(rows, Filters(**asked), cap, removed), dict(removed)


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_without_being_asked_only_copies_and_ties_are_left_out() -> None:
    rows: list[Row] = [
        chat("Why?", "So."),
        chat("Why?", " So.\n"),
        chat("Why?", "Because."),
        Pair((Message("user", "Why?"),), "So.", "So."),
        chat("Q", "As an AI language model, I cannot answer that."),
    ]
    assert left(rows) == ([0, 2, 4], {"same answers": 1, "duplicates": 1})
    assert left(rows, duplicates="keep") == ([0, 1, 2, 4], {"same answers": 1})


def test_length_is_that_of_every_answer() -> None:
    rows: list[Row] = [chat("q " * 50, "one"), chat("q", "one two three"), chat("q", "x" * 100)]
    assert left(rows, min_words=2)[0] == [1]
    assert left(rows, max_words=2)[0] == [0, 2]
    assert left(rows, min_chars=4, max_chars=99)[0] == [1]
    pair = Pair((Message("user", "q"),), "one two three", "one")
    assert left([pair], min_words=2) == ([], {"length": 1})
    assert left([pair], max_words=3) == ([0], {})


# Languages

ENGLISH = chat("How long do I boil an egg?", "About seven minutes, if you want the middle to stay soft.")
GERMAN = chat("Wie lange kocht man ein Ei?", "Ungefähr sieben Minuten, wenn der Dotter weich bleiben soll.")
FRENCH = chat("Combien de temps faut-il cuire un œuf ?", "Environ sept minutes, si l'on veut garder le jaune coulant.")


def test_a_language_is_detected_where_the_data_set_names_none() -> None:
    rows: list[Row] = [ENGLISH, GERMAN, FRENCH, chat("2+2?", "4")]
    assert left(rows, languages=("en",)) == ([0, 3], {"language": 2})
    assert left(rows, languages=("de", "fr")) == ([1, 2, 3], {"language": 1})


def test_what_a_data_set_says_of_its_language_is_believed() -> None:
    rows: list[Row] = [chat("a", "b", "pt-BR"), chat("c", "d", "zh"), Example(GERMAN.messages, "en")]
    assert left(rows, languages=("pt", "en"))[0] == [0, 2]
    assert left(rows, languages=("pt-BR", "zh"))[0] == [0, 1]


# Refusals

REFUSALS = [
    "As an AI language model, I cannot browse the internet.",
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but as an AI language model I don’t have personal opinions.",
    "Sorry, I cannot fulfill this request.",
    "I am an AI assistant and cannot provide medical advice.",
    "As a large language model, I am not able to access that.",
    "I apologize, but I am unable to provide that information.",
    "Unfortunately, I cannot answer that question.",
    "As an artificial intelligence, I do not have feelings.",
    "I'm just an AI, I don't have the ability to do so.",
    "\n**As an AI, I can't do that.**",
]
ANSWERS = [
    "I cannot recommend this book enough.",
    "As an AI researcher, I cannot overstate how fast it moved.",
    "I can't help but smile when I think of it.",
    "I'm sorry to hear that you are ill. Rest well.",
    "I'm sorry, but I can't make it to the party.",
    'The villain said: "As an AI language model, I cannot do so."',
    "An AI language model is a program that cannot feel.",
    "I am not able to come on Monday.",
    "I will not give up this fight!",
    "As an AI model grows, I think its errors shrink, and I can not explain it.",
    "Sorry seems to be the hardest word.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_an_answer_that_declines_is_told(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_only_looks_like_it_stays(answer: str) -> None:
    assert not refuses(answer)


def test_of_a_pair_the_chosen_answer_must_not_refuse() -> None:
    prompt = (Message("user", "q"),)
    rows: list[Row] = [Pair(prompt, REFUSALS[0], "Yes."), Pair(prompt, "Yes.", REFUSALS[0])]
    assert left(rows, refusals="drop") == ([1], {"refusals": 1})


# Near duplicates


def sentence(draw: random.Random, words: int) -> list[str]:
    return [f"w{draw.randrange(5000)}" for _ in range(words)]


def exact_similarity(one: list[str], other: list[str]) -> float:
    left, right = (set(zip(text, text[1:], text[2:], strict=False)) for text in (one, other))
    return len(left & right) / len(left | right)


def test_near_duplicates_are_those_above_the_similarity() -> None:
    draw = random.Random(0)
    texts = [sentence(draw, 60) for _ in range(200)]
    expected = [False] * 200
    for text in texts[:200]:
        changed = list(text)
        for _ in range(draw.choice([1, 2, 8])):
            changed[draw.randrange(60)] = "other"
        similarity = exact_similarity(text, changed)
        if abs(similarity - 0.8) > 0.02:
            texts.append(changed)
            expected.append(similarity >= 0.8)
    assert near_duplicates([" ".join(text) for text in texts], 0.8) == expected
    assert 50 < sum(expected) < 190


def test_case_and_punctuation_make_no_difference_and_short_texts_are_compared_whole() -> None:
    texts = ["The cat sat on the mat.", "the CAT, sat on the mat", "Yes", "yes!", "no", "", "..."]
    assert near_duplicates(texts, 0.8) == [False, True, False, True, False, False, True]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), max_size=12))
def test_of_near_duplicates_the_first_stays(texts: list[str]) -> None:
    near = near_duplicates(texts, 1.0)
    for index, text in enumerate(texts):
        assert near[index] or text not in texts[:index]
    stayed = [text for text, gone in zip(texts, near, strict=True) if not gone]
    assert not any(near_duplicates(stayed, 1.0))


# Overlap with evaluation prompts


@pytest.fixture
def prompts(tmp_path: Path) -> PromptFile:
    texts = ["Write a poem about the sea, and do not use any commas in it.", "Who are you?"]
    return PromptFile(path=str(jsonl(tmp_path / "prompts.jsonl", *({"key": 1, "prompt": text} for text in texts))))


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ("Please write a poem about THE SEA and do not stop!", True),  # nine words in a row
        ("Write a poem about the sea and do", True),
        ("Write a poem about the sea and", False),  # seven
        ("Write a poem about the old sea, and do not use any.", False),
        ("who are you", True),  # all of a short one
        ("Who are you, and who am I?", False),
    ],
)
def test_eight_words_in_a_row_are_an_overlap(prompts: PromptFile, asked: str, gone: bool) -> None:
    rows: list[Row] = [chat(asked, "x"), Pair((Message("system", asked), Message("user", "y")), "a", "b")]
    assert left(rows, overlap_with=(prompts,)) == (([], {"overlap": 2}) if gone else ([0, 1], {}))
    assert left(rows, overlap_with=(prompts,), overlap="keep") == ([0, 1], {})


def test_answers_may_say_what_an_evaluation_prompt_says(prompts: PromptFile) -> None:
    rows: list[Row] = [chat("Make up a task.", "Write a poem about the sea, and do not use any commas in it.")]
    assert left(rows, overlap_with=(prompts,))[0] == [0]


def test_other_prompts_under_the_same_name_are_read_again(prompts: PromptFile, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Who are you?", "response": "I"}, {"prompt": "p", "response": "r"})
    source = Source(name="data", path=str(path), filters=Filters(overlap_with=(prompts,)))
    facts = inspect_sources([source])["data"]
    assert (facts.rows, facts.removed) == (1, {"overlap": 1})
    assert facts.overlap_with[0].sha256 == hashlib.sha256(Path(prompts.path).read_bytes()).hexdigest()
    jsonl(Path(prompts.path), {"prompt": "Where?"})
    assert inspect_sources([source])["data"].rows == 2
    pinned = source.model_copy(update={"filters": Filters(overlap_with=facts.overlap_with)})
    with pytest.raises(RecipeError, match=r"prompts.jsonl, the evaluation prompts .* is not the file that was pinned"):
        inspect_sources([pinned])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            None,
            r"'data' \(.*\): .*prompts.jsonl, the evaluation prompts .* cannot be read: No such file .*\. Put",
        ),
        ('{"prompt": "a"}\n{"key": 3}\n', "prompts.jsonl, line 2: no evaluation prompt"),
        ("[]", "prompts.jsonl, line 1: no evaluation prompt"),
    ],
)
def test_a_file_without_evaluation_prompts(prompts: PromptFile, tmp_path: Path, text: str | None, said: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    Path(prompts.path).unlink() if text is None else Path(prompts.path).write_text(text)
    with pytest.raises(RecipeError, match=said):
        read(Source(name="data", path=str(path), filters=Filters(overlap_with=(prompts,))))


# All of them


def test_the_rehearsal_loses_no_row_to_the_filters_that_are_on_by_themselves() -> None:
    made = rehearsal_text.requests(random.Random(0), 400)
    rows: list[Row] = [chat(asked.prompt, rehearsal_text.comply(asked)) for asked in made]
    assert left(rows) == (list(range(400)), {})


def test_a_cap_takes_the_same_rows_whatever_their_order() -> None:
    rows: list[Row] = [chat(f"q{number}", f"a{number}") for number in range(50)]
    few, removed = left(rows, cap=10)
    assert (few, removed) == (sorted(few), {"rows": 40})
    assert set(few) < set(left(rows, cap=20)[0])
    backwards = left(rows[::-1], cap=10)[0]
    assert sorted(49 - index for index in backwards) == few


def test_filters_that_leave_nothing_say_what_each_took(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number}", "response": "x" * number} for number in range(1, 6)]
    path = jsonl(tmp_path / "a.jsonl", *rows, rows[4], {"prompt": "q", "response": REFUSALS[0]})
    source = Source(name="data", path=str(path), filters=Filters(max_words=1, min_chars=9, refusals="drop"))
    with pytest.raises(RecipeError, match=r"its filters leave none of 7 rows \(7 by length\); loosen them"):
        read(source)
    source = source.model_copy(update={"filters": Filters(min_chars=9, languages=("fr",))})
    with pytest.raises(RecipeError, match=r"none of 7 rows \(6 by length, 1 by language\)"):
        read(source)


words = st.lists(st.sampled_from("alpha beta gamma delta epsilon zeta eta theta iota".split()), min_size=1, max_size=12)
texts = words.map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.builds(chat, texts, texts, st.sampled_from(["en", "de"])), max_size=15),
    asked=st.fixed_dictionaries(
        {},
        optional={
            "min_words": st.integers(0, 6),
            "max_words": st.integers(6, 12),
            "languages": st.just(("en",)),
            "duplicates": st.sampled_from(["keep", "exact", "near"]),
            "refusals": st.just("drop"),
        },
    ),
    cap=st.none() | st.integers(2, 8),
)
def test_every_row_stays_or_is_counted_once(rows: list[Row], asked: dict[str, Any], cap: int | None) -> None:
    stayed, removed = left(rows, cap, **asked)
    assert len(stayed) + sum(removed.values()) == len(rows)
    assert stayed == sorted(set(stayed))
    assert left([rows[index] for index in stayed], cap, **asked) == (list(range(len(stayed))), {})


ANYWHERE = """
import sys
sys.path[:0] = [sys.argv[1]]
from test_filters import ENGLISH, FRENCH, GERMAN, left, random, sentence, chat
draw = random.Random(0)
rows = [chat(" ".join(sentence(draw, 3)), " ".join(["a", "b", *sentence(draw, 2)])) for _ in range(300)]
print(left([*rows, ENGLISH, FRENCH, GERMAN], 200, duplicates="near", similarity=0.7, languages=("en", "so", "pl")))
"""


def test_two_processes_filter_alike() -> None:
    here = str(Path(__file__).parent)
    said = [
        subprocess.run(
            [sys.executable, "-c", ANYWHERE, here],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""
