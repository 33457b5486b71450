"""The structures of published data sets: small files with exactly their fields, and what becomes of them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.rows import Example, Message, Pair
from train.data.sources import inspect_sources, read
from train.data.trees import threads
from train.recipe import Fields, Filters, RecipeError, Source

DATA = Path(__file__).parents[1] / "data"


def source(name: str, **more: Any) -> Source:
    return Source(name="data", path=str(DATA / f"{name}.jsonl"), **more)


def chats(rows: Any) -> list[list[str]]:
    """The texts of each chat, checked to be from user and assistant in turn."""
    assert all([m.role for m in row.messages] == ["user", "assistant"] * (len(row.messages) // 2) for row in rows)
    return [[message.content for message in row.messages] for row in rows]


@pytest.mark.parametrize("form", ["auto", "dolly"])
def test_dolly(form: Any) -> None:
    rows = read(source("dolly", format=form))
    assert len(rows) == 4
    assert isinstance(rows[1], Example)
    asked = "How long is the old bridge?\n\nThe old bridge was built in 1712. It is 140 metres long and has six arches."
    assert rows[1].messages == (Message("user", asked), Message("assistant", "It is 140 metres long."))


@pytest.mark.parametrize("form", ["auto", "lima"])
def test_lima_loses_last_questions_that_nobody_answered(form: Any) -> None:
    rows = read(source("lima", format=form))
    assert [len(row.messages) for row in rows if isinstance(row, Example)] == [2, 4, 2]
    assert chats(rows)[2] == ["Can you name a colour?", "Blue."]
    facts = inspect_sources([source("lima", format=form)])["data"]
    assert (facts.rows, facts.left_out) == (3, {"last question without an answer": 1})


def test_the_test_split_of_lima_has_nothing_to_learn(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"conversations": ["Why?"], "source": "test"}\n')
    with pytest.raises(RecipeError, match=r'line 1: has a question and no answer, .*: use split = "train"'):
        read(Source(name="data", path=str(path)))


@pytest.mark.parametrize("form", ["auto", "ultrafeedback"])
def test_ultrafeedback_as_preferences_and_as_sft_data(form: Any) -> None:
    pairs = read(source("ultrafeedback", format=form, use="preference"))
    assert pairs[1] == Pair((Message("user", "What is 12 times 12?"),), "12 times 12 is 144.", "It is 124.")
    assert inspect_sources([source("ultrafeedback", use="preference")])["data"].removed == {"same answers": 1}
    assert chats(read(source("ultrafeedback", format=form)))[1:] == [
        ["What is 12 times 12?", "12 times 12 is 144."],
        ["Say hello.", "Hello!"],
    ]


# OASST1

JUGGLING = [
    "How do I learn to juggle?",
    "Begin with one ball, then two, and only then three.",
    "How long does that take?",
    "Most people need a week of evenings.",
]


@pytest.mark.parametrize("form", ["auto", "oasst"])
def test_a_tree_gives_its_best_ranked_thread_up_to_its_last_answer(form: Any) -> None:
    rows = read(source("oasst1", format=form))
    german = ["Was ist ein Reim?", "Ein Gleichklang am Ende von Versen, wie Haus und Maus."]
    assert chats(rows) == [JUGGLING, german, ["Name a tree.", "An oak."]]
    assert [row.language for row in rows] == ["en", "de", "en"]


def test_every_message_of_a_tree_is_accounted_for() -> None:
    facts = inspect_sources([source("oasst1")])["data"]
    assert facts.left_out == {
        "deleted": 1,
        "failed its review": 1,
        "its tree is not ready_for_export": 2,
        "not in the best thread": 6,
    }
    assert sum(facts.left_out.values()) + sum(map(len, chats(read(source("oasst1"))))) == 18


def test_threads_are_chosen_by_their_language() -> None:
    asked = source("oasst1", filters=Filters(languages=("de",)))
    assert [row.language for row in read(asked)] == ["de"]
    assert inspect_sources([asked])["data"].removed == {"language": 2}


def test_every_answer_of_a_thread_can_be_learned() -> None:
    rows = read(source("oasst1", answers="every"))
    assert chats(rows)[:2] == [JUGGLING[:2], JUGGLING]
    assert len(rows) == 4


REVISION = "0" * 40


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the folder in which the hub's cache has a data set at REVISION."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def made(repo: str) -> Path:
        folder = tmp_path / "hub" / f"datasets--{repo.replace('/', '--')}" / "snapshots" / REVISION
        (folder / "data").mkdir(parents=True)
        return folder

    return made


def test_from_the_hubs_parquet_it_is_the_same(snapshot: Callable[[str], Path]) -> None:
    """With the types that the published files have: 32-bit integers, and columns of nulls."""
    import datasets

    records = [json.loads(line) for line in (DATA / "oasst1.jsonl").read_text().splitlines()]
    made = datasets.Dataset.from_list(records)
    integers = {name: datasets.Value("int32") for name in ("rank", "review_count")}
    made = made.cast(datasets.Features({**made.features, **integers, "model_name": datasets.Value("string")}))
    made.to_parquet(snapshot("OpenAssistant/oasst1") / "data" / "train-00000-of-00001-b42a775f407cee45.parquet")
    on_hub = Source(name="data", hub="OpenAssistant/oasst1", revision=REVISION)
    assert read(on_hub) == read(source("oasst1"))
    assert inspect_sources([on_hub])["data"].left_out == inspect_sources([source("oasst1")])["data"].left_out


def test_the_code_that_lies_beside_lima_is_not_run(snapshot: Callable[[str], Path]) -> None:
    folder = snapshot("GAIR/lima")
    (folder / "lima.py").write_text("raise SystemExit('this must not run')")
    (folder / "train.jsonl").write_bytes((DATA / "lima.jsonl").read_bytes())
    (folder / "test.jsonl").write_text('{"conversations": ["Why?"], "source": "test"}\n')
    assert read(Source(name="data", hub="GAIR/lima", revision=REVISION)) == read(source("lima"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"role": "system"}, "line 2: has the role 'system'; OASST1 has prompter and assistant"),
        ({"text": None}, "line 2: text is null, not text"),
        ({"rank": "best"}, "line 2: rank is text, not a whole number or null"),
        ({"parent_id": 3}, "line 2: parent_id is a number, not text or null"),
        ({"parent_id": None}, "line 2: is from the assistant and answers nothing"),
        ({"text": " "}, "line 2: the answer is empty"),
        ({"message_id": "first"}, "line 2: its message_id is that of line 1"),
        ({"tree_state": ...}, "line 2: lacks tree_state, of OASST1's fields; it has message_id,"),
    ],
)
def test_a_bad_message_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    usual = {"lang": "en", "review_result": True, "deleted": False, "rank": None, "message_tree_id": "first"}
    usual["tree_state"] = "ready_for_export"
    first = {"message_id": "first", "parent_id": None, "text": "a", "role": "prompter", **usual}
    second = {"message_id": "second", "parent_id": "first", "text": "b", "role": "assistant", **usual, **changes}
    path = tmp_path / "a.jsonl"
    lines = [first, {name: value for name, value in second.items() if value is not ...}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RecipeError, match=said):
        read(Source(name="data", path=str(path)))


def test_trees_without_an_answer_leave_nothing(tmp_path: Path) -> None:
    lines = (DATA / "oasst1.jsonl").read_text().splitlines()
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines[13:16]))  # a tree that is not ready, and a question
    with pytest.raises(RecipeError, match=r"no answered question \(2 its tree is not ready_for_export, 1 not in the"):
        read(Source(name="data", path=str(path)))


@st.composite
def trees(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages of a few random trees, in any order."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 12))):
        parents = [None, *range(number)]
        parent = draw(st.sampled_from(parents))
        role = "prompter" if parent is None or made[parent]["role"] == "assistant" else "assistant"
        made.append(
            {
                "message_id": f"m{number:02}",
                "parent_id": None if parent is None else f"m{parent:02}",
                "text": f"text {number}",
                "role": role,
                "lang": "en",
                "review_result": draw(st.sampled_from([True, True, None, False])),
                "deleted": draw(st.sampled_from([False, False, False, True])),
                "rank": draw(st.none() | st.integers(0, 3)),
                "message_tree_id": "m",
                "tree_state": "ready_for_export",
            }
        )
    return draw(st.permutations(made))


@settings(max_examples=150, deadline=None)
@given(trees())
def test_threads_follow_the_best_sibling_that_was_kept(messages: list[dict[str, Any]]) -> None:
    left_out: Counter[str] = Counter()
    placed = [(f"row {number}", message) for number, message in enumerate(messages, 1)]
    found = [record["messages"] for _, record in threads(placed, left_out)]
    kept = {m["text"]: m for m in messages if not m["deleted"] and m["review_result"] is not False}
    for thread in found:
        assert [turn["role"] for turn in thread] == ["prompter", "assistant"] * (len(thread) // 2)
        for parent, child in itertools.pairwise(thread):
            siblings = [m for m in kept.values() if m["parent_id"] == kept[parent["content"]]["message_id"]]
            best = min(siblings, key=lambda m: (m["rank"] is None, m["rank"] or 0, m["message_id"]))
            assert child["content"] == best["text"]
    assert sum(map(len, found)) + sum(left_out.values()) == len(messages)
    assert sorted(map(str, found)) == sorted(map(str, [r["messages"] for _, r in threads(placed[::-1], Counter())]))


# Mappings, and what does not fit

MAPPED = Fields(prompt="question", context="background", response="answer")


def test_fields_are_found_under_the_names_that_a_data_set_gives_them() -> None:
    rows = read(source("mapped", fields=MAPPED))
    assert chats(rows)[0] == ["What is a fjord?\n\nNorway has many.", "A long, narrow inlet between cliffs."]
    assert [row.language for row in rows] == ["en", "en"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {},
            r"line 1: has the fields id, .*; it needs prompt .*: name its own fields, like fields = \{",
        ),
        (
            {"fields": Fields(prompt="ask", response="answer")},
            r"line 1: has no field ask \(fields.prompt\); it has id,",
        ),
        ({"fields": Fields(prompt="question")}, "line 1: has the fields prompt, lang; it needs prompt and response"),
        ({"fields": Fields(prompt="id", response="answer")}, "line 1: prompt is a number, not text"),
        (
            {"format": "dolly"},
            "line 1: lacks instruction, context, response, of databricks-dolly-15k's fields; it has id",
        ),
        ({"format": "oasst"}, "line 1: lacks message_id, .*, of OASST1's fields; it has id, question,"),
        ({"format": "lima"}, "line 1: lacks conversations, of LIMA's fields"),
        ({"format": "ultrafeedback"}, "line 1: lacks prompt, chosen, rejected, of UltraFeedback binarized's fields"),
    ],
)
def test_columns_that_are_not_there_are_named_beside_those_that_are(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read(source("mapped", **more))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format": "lima", "fields": MAPPED}, "has a format, which names the fields: give one of the two"),
        ({"format": "lima", "use": "preference"}, "this format is for sft data; leave out use, or format"),
        ({"answers": "every", "use": "preference"}, "this answers is for sft data"),
        ({"streaming": True}, "streaming data sets are refused: no run could be repeated"),
        ({"filters": {"min_words": 9, "max_words": 3}}, "min_words is 9, above max_words, which is 3"),
    ],
)
def test_a_source_that_contradicts_itself(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source("dolly", **more)


def test_a_source_survives_json_and_a_dump() -> None:
    made = source(
        "dolly", filters={"languages": ("en",), "overlap_with": ("a.jsonl", {"path": "b", "sha256": "0" * 64})}
    )
    assert Source.model_validate_json(made.model_dump_json()) == made == Source(**made.model_dump())
    assert hash(made) == hash(Source(**made.model_dump()))
