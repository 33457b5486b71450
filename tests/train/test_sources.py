"""Reading and checking data sources: what is accepted, and what each kind of bad input is answered with."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.rows import BadRow, example
from train.data.sources import Example, Message, Pair, fingerprint, inspect_sources, read
from train.recipe import Filters, RecipeError, Source


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sft(path: Path, **more: Any) -> Source:
    return Source(name="data", path=str(path), **more)


def preference(path: Path) -> Source:
    return Source(name="data", path=str(path), use="preference")


def chat(*contents: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


QUESTION = Message("user", "Why?")
ANSWER = Message("assistant", "So.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "response": "So."},
        {"prompt": "Why?", "completion": "So."},
        {"instruction": "Why?", "output": "So.", "input": ""},
        {"instruction": "Why?", "context": None, "response": "So.", "category": "open_qa"},
        {"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "So."}]},
        {"messages": chat("Why?", "So."), "prompt": None},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"conversations": ["Why?", "So."]},
        {"prompt": "Why?", "prompt_id": "x", "messages": chat("Why?", "So."), "chosen": [], "rejected": []},
    ],
)
def test_every_accepted_shape_gives_the_same_chat(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(sft(write(tmp_path / "a.jsonl", row))) == [Example((QUESTION, ANSWER))]


def test_dolly_puts_its_context_under_the_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Summarize.", "context": "A text.", "response": "Short.", "category": "summarization"}
    (read_row,) = read(sft(write(tmp_path / "a.jsonl", row)))
    assert isinstance(read_row, Example)
    assert read_row.prompt == (Message("user", "Summarize.\n\nA text."),)
    assert read_row.answer == "Short."


def test_a_longer_chat_keeps_its_turns_and_its_system_message(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "messages": chat("a", "b", "c", "d")}
    (read_row,) = read(sft(write(tmp_path / "a.jsonl", row)))
    assert isinstance(read_row, Example)
    assert [message.role for message in read_row.messages] == ["system", *["user", "assistant"] * 2]
    assert read_row.answer == "d"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": "Why?", "chosen": chat("Why?", "So."), "rejected": chat("Why?", "No."), "score_chosen": 8.0},
        {"chosen": chat("Why?", "So."), "rejected": chat("Why?", "No.")},
        {
            "prompt": chat("Why?"),
            "chosen": [{"role": "assistant", "content": "So."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
    ],
)
def test_every_accepted_preference_gives_the_same_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(preference(write(tmp_path / "a.jsonl", row))) == [Pair((QUESTION,), "So.", "No.")]


SFT_PROBLEMS = [
    ({"question": "a", "answer": "b"}, "has the fields question, answer; it needs prompt and response"),
    ({}, "has no fields"),
    ({"prompt": "a", "response": None}, r"response is null \(has the fields prompt, response\)"),
    ({"prompt": 3, "response": "b"}, "prompt is a number, not text"),
    ({"prompt": "a", "response": ["b", "c"]}, "response must be a string or one message of the assistant"),
    ({"prompt": "a", "response": " \n"}, "the answer is empty"),
    ({"prompt": " ", "response": "b"}, "the prompt is empty"),
    ({"prompt": "a", "response": "\ud800"}, "half of a surrogate pair"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, 'preferences; give the source use = "preference"'),
    ({"messages": "a"}, "messages is text, not a list of messages"),
    ({"messages": []}, "messages is empty, not a list of messages"),
    ({"messages": [3]}, "message 1 of messages is a number"),
    ({"messages": [{"role": "user"}]}, "message 1 of messages has no content; it has role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "has the role 'tool'; known roles are system, user, assistant"),
    ({"messages": [{"role": ["user"], "content": "a"}]}, r"has the role \['user'\]"),
    ({"messages": [{"role": "user", "content": None}]}, "content of message 1 of messages is null, not text"),
    ({"messages": chat("a")}, "has no answer of the assistant"),
    ({"messages": chat("a", "b", "c")}, "ends with the user's turn"),
    ({"messages": chat("a", "b")[::-1]}, "message 1 is from the assistant where the user's turn is"),
    ({"messages": [*chat("a"), *chat("b", "c")]}, "message 2 is from the user where the assistant's turn is"),
    ({"messages": [*chat("a", "b"), {"role": "system", "content": "c"}]}, "message 3 is from the system"),
    ([1, 2], "is a list, not an object with named fields"),
    (None, "is null, not an object with named fields"),
]


@pytest.mark.parametrize(("row", "said"), SFT_PROBLEMS)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"}, row)
    with pytest.raises(RecipeError, match=rf"data source 'data' \(.*a\.jsonl\), line 2: .*{said}"):
        read(sft(path))


PREFERENCE_PROBLEMS = [
    ({"prompt": "a", "response": "b"}, "has the fields prompt, response; a source with use = .preference. needs"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is null"),
    ({"chosen": "b", "rejected": "c"}, "has no prompt, and chosen does not hold it either"),
    ({"chosen": chat("a", "b"), "rejected": chat("x", "c")}, "chosen and rejected answer different prompts"),
    ({"chosen": chat("a", "b", "c"), "rejected": chat("a", "b", "d")}, "chosen does not end with the assistant"),
    ({"prompt": " ", "chosen": "b", "rejected": "c"}, "the prompt is empty"),
    ({"prompt": "a", "chosen": " ", "rejected": "c"}, "the chosen answer is empty"),
]


@pytest.mark.parametrize(("row", "said"), PREFERENCE_PROBLEMS)
def test_a_bad_preference_is_named_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=f"line 1: .*{said}"):
        read(preference(write(tmp_path / "a.jsonl", row)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b'{"prompt": "a", "response": "b"}\n{"prompt": "a', "line 2: is not JSON"),
        (b'[\n  {"prompt": "a"}\n]\n', "line 1: is not JSON by itself; write one whole JSON object a line"),
        (b"[" * 100_000, "line 1: is not JSON"),
        (b'{"prompt": "a",\n "response": "caf\xe9"}', "line 2: the file is not UTF-8; save it as UTF-8"),
        ('{"prompt": "a", "response": "b"}'.encode("utf-16"), "line 1: the file is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00garbage", "the file is not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_what_to_do(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(RecipeError, match=rf"data source 'data' \(.*a\.jsonl\).*{said}"):
        read(sft(tmp_path / "a.jsonl"))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file; correct its path"):
        read(sft(tmp_path / "none.jsonl"))
    with pytest.raises(RecipeError, match="is a folder; give the JSONL file in it"):
        read(sft(tmp_path))


def test_byte_order_marks_carriage_returns_blank_lines_and_line_separators_are_read(tmp_path: Path) -> None:
    line = '{"prompt": "a\u2028b", "response": "c\x85d"}'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}".encode())
    rows = read(sft(tmp_path / "a.jsonl", filters=Filters(duplicates="keep")))
    assert rows == [Example((Message("user", "a\u2028b"), Message("assistant", "c\x85d")))] * 2


def test_all_problems_of_all_sources_come_in_one_message(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", {"a": 1}, {"prompt": "a", "response": "b"}, {"prompt": None, "response": "b"})
    sources = [
        Source(name="one", path=str(bad)),
        Source(name="two", path=str(tmp_path / "none.jsonl")),
        Source(name="three", path=str(write(tmp_path / "good.jsonl", {"prompt": "a", "response": "b"}))),
    ]
    with pytest.raises(RecipeError) as raised:
        inspect_sources(sources)
    lines = str(raised.value).split("\n")
    assert len(lines) == 3
    assert "'one'" in lines[0]
    assert "line 1" in lines[0]
    assert "line 3: prompt is null" in lines[1]
    assert "'two'" in lines[2]


def test_a_file_full_of_problems_does_not_flood_the_screen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[{"a": 1}] * 1000)
    with pytest.raises(RecipeError) as raised:
        read(sft(path))
    lines = str(raised.value).split("\n")
    assert len(lines) == 6
    assert "and 995 more rows with problems" in lines[-1]


def test_the_facts_of_a_source(tmp_path: Path) -> None:
    rows = [{"instruction": "é" * size, "response": "b"} for size in (1, 2, 10)]
    path = write(tmp_path / "a.jsonl", *rows)
    facts = inspect_sources([sft(path)])["data"]
    assert (facts.rows, facts.fields, facts.median_bytes, facts.max_bytes) == (3, ("instruction", "response"), 5, 21)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_pinned_source_that_changed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    pinned = sft(path, sha256=fingerprint(sft(path)))
    assert inspect_sources([pinned])["data"].sha256 == pinned.sha256
    write(path, {"prompt": "a", "response": "c"})
    with pytest.raises(RecipeError, match=r"is not the data that was pinned: sha256 is [0-9a-f]{64}, not"):
        inspect_sources([pinned])


def test_bad_rows_are_left_out_and_counted_where_that_is_asked(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b"}, {"prompt": None, "response": "b"}, [], {"prompt": "c", "response": " "}]
    path = write(tmp_path / "a.jsonl", *rows)
    facts = inspect_sources([sft(path, filters=Filters(bad_rows="drop"))])["data"]
    assert (facts.rows, facts.rows_read, facts.removed) == (1, 4, {"bad rows": 3})


def test_bad_rows_alone_say_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"a": 1}, {"b": 1})
    with pytest.raises(
        RecipeError, match=r"leave none of 2 rows \(2 by bad rows\); .*line 1: has the fields a; it needs"
    ):
        read(sft(path, filters=Filters(bad_rows="drop")))


def test_a_hub_data_set_with_a_bad_row_names_the_filter_that_leaves_it_out(hub_cache: Path) -> None:
    cached_data_set(hub_cache, {"prompt": "a", "response": "b"}, {"prompt": "c", "response": ""})
    source = Source(name="pairs", hub="someone/pairs", revision=REVISION)
    said = r'row 2: the answer is empty; .* \(to leave such rows out, set filters = \{ bad_rows = "drop" \}\)'
    with pytest.raises(RecipeError, match=said):
        read(source)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=6,
)
names = st.sampled_from(["prompt", "response", "messages", "context", "system", "conversations", "output"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, json_values | st.just(chat("a", "b"))))
def test_any_record_is_either_a_chat_or_a_bad_row(record: dict[str, Any]) -> None:
    try:
        row = example(record)
    except BadRow:
        return
    assert row.answer.strip()
    assert row.messages[-1].role == "assistant"


# The hub, out of a cache on disk, as a night without network has it


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no network, and a cache folder of `datasets` of its own."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


def cached_data_set(hub_cache: Path, *rows: Any) -> None:
    folder = hub_cache / "datasets--someone--pairs" / "snapshots" / REVISION
    (folder / "data").mkdir(parents=True)
    write(folder / "data" / "train-00000.jsonl", *rows)


def test_a_cached_hub_data_set_is_read_without_network(hub_cache: Path) -> None:
    rows = [{"prompt": "Why?", "chosen": chat("Why?", "So."), "rejected": chat("Why?", "No.")}] * 2
    cached_data_set(hub_cache, *rows)
    source = Source(name="pairs", hub="someone/pairs", revision=REVISION, use="preference")
    assert read(source) == [Pair((QUESTION,), "So.", "No.")]
    facts = inspect_sources([source])["pairs"]
    assert (facts.rows, facts.rows_read, facts.removed) == (1, 2, {"duplicates": 1})
    assert set(facts.fields) == {"prompt", "chosen", "rejected"}
    assert facts.sha256 == fingerprint(source)


def test_a_hub_data_set_without_the_split_says_which_it_has(hub_cache: Path) -> None:
    cached_data_set(hub_cache, {"prompt": "a", "response": "b"})
    source = Source(name="pairs", hub="someone/pairs", revision=REVISION, split="validation")
    with pytest.raises(RecipeError, match=r"data source 'pairs' \(someone/pairs\): split 'validation' .*train"):
        read(source)


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_data_set_that_is_not_cached_names_the_command_that_fetches_it() -> None:
    source = Source(name="pairs", hub="someone/none", revision=REVISION)
    command = f"hf download someone/none --repo-type dataset --revision {REVISION}"
    with pytest.raises(RecipeError, match=f"the hub cannot be reached, .*: {command}"):
        read(source)


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_id_that_is_none_is_explained() -> None:
    with pytest.raises(RecipeError, match="'a b' is neither a folder nor the id of a dataset on the hub"):
        read(Source(name="pairs", hub="a b"))


def test_reading_imports_neither_torch_nor_datasets() -> None:
    code = "import sys, train.planning.plan; sys.exit(bool({'torch', 'datasets', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
