"""Data made once: kept on disk, found again, and made again where what was kept is damaged or no longer fits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_data import make_tokenizer, numbered, one_source, texts, write

from train.chat import Chat
from train.data import cache, sources
from train.data.sources import inspect_sources
from train.data.splits import Splits, splits
from train.recipe import Base, Fields, Filters, Probe, Recipe, RecipeError, Source

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources._corpus.cache_clear()
    yield tmp_path / "cache"
    sources._corpus.cache_clear()


def anew(recipe: Recipe, **more: Any) -> Splits:
    """As another process makes it: with a tokenizer and a memory of its own."""
    sources._corpus.cache_clear()
    return splits(recipe, make_tokenizer(**more))


@pytest.fixture
def asked(tmp_path: Path) -> Recipe:
    sft = write(tmp_path / "a.jsonl", numbered("x", 40))
    pairs = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(10)]
    preferences = write(tmp_path / "b.jsonl", pairs)
    both = (Source(name="only", path=str(sft)), Source(name="pairs", path=str(preferences), use="preference"))
    return one_source(sft, sources=both, examples=60, dpo_share=0.3)


def files(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_what_is_on_disk_is_neither_read_nor_tokenized_again(asked: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    first = anew(asked)

    def refused(*_: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(Chat, "ids", refused)
    monkeypatch.setattr(sources, "_parse", refused)
    second = anew(asked)
    assert second.fingerprint == first.fingerprint
    assert second.facts == first.facts
    assert second.sft[:] == first.sft[:]
    assert second.dpo is not None
    assert first.dpo is not None
    assert second.dpo[:] == first.dpo[:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 + 1 :],
        lambda data: b"",
        lambda data: b"0" * 64 + data[64:],
        lambda data: data + b"\n",
    ],
)
def test_a_damaged_entry_is_made_again(asked: Recipe, home: Path, damage: Any) -> None:
    first, kept = anew(asked), files(home)
    for path, data in kept.items():
        path.write_bytes(damage(data))
    assert anew(asked).fingerprint == first.fingerprint
    assert files(home) == kept


def test_no_entry_is_a_pickle_and_none_is_left_half_written(asked: Recipe, home: Path) -> None:
    anew(asked)
    for path, data in files(home).items():
        digest, head, _ = data.split(b"\n", 2)
        assert len(digest) == 64
        assert set(json.loads(head)) == {"facts", "arrays"}
        assert not path.name.startswith(".")


def test_what_nobody_used_for_long_is_removed_when_something_is_kept(asked: Recipe, home: Path) -> None:
    anew(asked)
    long_ago = time.time() - (cache.UNUSED_DAYS + 1) * 24 * 3600
    unused = [path for path in files(home) if path.parent.name == "corpora"]
    left_by_a_kill = unused[0].with_name(".half.1.tmp")
    left_by_a_kill.write_bytes(b"half")
    for path in [*unused, left_by_a_kill]:
        os.utime(path, (long_ago, long_ago))
    cache.store("corpora", "new", cache.Entry({}, {}))
    assert [path.name for path in home.rglob("corpora/*")] == ["new"]


def test_what_is_used_is_not_removed(home: Path) -> None:
    long_ago = time.time() - (cache.UNUSED_DAYS + 1) * 24 * 3600
    cache.store("corpora", "old", cache.Entry({"n": 1}, {}))
    os.utime(cache.path("corpora", "old"), (long_ago, long_ago))
    assert cache.load("corpora", "old") == cache.Entry({"n": 1}, {})
    cache.store("corpora", "new", cache.Entry({}, {}))
    assert cache.load("corpora", "old") is not None


def test_rows_that_a_later_run_draws_are_added(asked: Recipe, home: Path) -> None:
    few = asked.model_copy(update={"rows": 4, "dpo_share": 0.0})
    anew(few)
    before = files(home)
    whole = anew(asked)
    grown = {path.parent.name for path, data in files(home).items() if len(data) > len(before.get(path, b""))}
    assert grown == {"tokens"}
    after = files(home)
    assert anew(asked).fingerprint == whole.fingerprint
    assert anew(few).facts["only"].rows_used == 4
    assert files(home) == after


def test_two_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    source = Source(name="only", path=str(write(tmp_path / "a.jsonl", numbered("x", 8))))
    from train.data.tokens import Tokens

    corpus = sources.corpus(source)
    one, other = (Tokens(Chat(made := make_tokenizer(), made.chat_template)) for _ in range(2))
    one.example(corpus, 1)
    other.example(corpus, 2)
    one.keep()
    other.keep()
    (path,) = (cache.path("tokens", "x").parent).iterdir()
    entry = cache.load("tokens", path.name)
    assert entry is not None
    assert entry.arrays["rows"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"chat_template": "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"},
        {"sources": {"filters": Filters(min_chars=11)}},
        {"sources": {"fields": Fields(prompt="response", response="prompt")}},
    ],
)
def test_other_settings_never_find_the_entry(asked: Recipe, change: dict[str, Any]) -> None:
    first = anew(asked)
    if "sources" in change:
        changed = asked.sources[0].model_copy(update=change["sources"])
        change = {"sources": (changed, *asked.sources[1:])}
    assert anew(asked.model_copy(update=change)).fingerprint != first.fingerprint


def test_neither_do_other_special_tokens(asked: Recipe) -> None:
    first, second = anew(asked), anew(asked, eos_token="<pad>")
    assert {row[-1] for row in first.sft["labels"]} != {row[-1] for row in second.sft["labels"]}


def test_without_a_folder_to_write_to_it_only_takes_longer(
    asked: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = anew(asked)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert anew(asked).fingerprint == first.fingerprint


def test_text_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered("x", 4))
    source = Source(name="only", path=str(path))
    sources.corpus(source)
    sources._corpus.cache_clear()
    corpus = sources.corpus(source)
    write(path, numbered("y", 4))
    with pytest.raises(RecipeError, match="was changed while it was read; start again"):
        corpus.row(0)


# What every data set has in common

SETS = [
    ("dolly", {}),
    ("lima", {}),
    ("oasst1", {}),
    ("oasst1", {"answers": "every"}),
    ("ultrafeedback", {}),
    ("mapped", {"fields": Fields(prompt="question", context="background", response="answer")}),
]


@pytest.mark.parametrize(("name", "more"), SETS)
def test_the_eos_is_learned_from_every_data_set(name: str, more: dict[str, Any]) -> None:
    tokenizer = make_tokenizer()
    source = Source(name="only", path=str(DATA / f"{name}.jsonl"), **more)
    recipe = Recipe(base=Base(model="base"), sources=(source,), examples=16, batch_size=4, probe=Probe(rows=1))
    made = splits(recipe, tokenizer)
    rows = [*made.sft, *({"labels": row.labels, "input_ids": row.input_ids} for row in made.probe)]
    for row in rows:
        learned = [label for label in row["labels"] if label != -100]
        assert learned[-1] == row["labels"][-1] == row["input_ids"][-1] == tokenizer.eos_token_id
        assert learned.count(tokenizer.eos_token_id) == 1
        assert len(tokenizer.decode(learned)) > len(tokenizer.eos_token)


def test_the_eos_is_learned_from_both_sides_of_ultrafeedback() -> None:
    tokenizer = make_tokenizer()
    path = str(DATA / "ultrafeedback.jsonl")
    both = (Source(name="chosen", path=path), Source(name="pairs", path=path, use="preference"))
    recipe = Recipe(
        base=Base(model="base"), sources=both, examples=16, batch_size=4, dpo_share=0.5, probe=Probe(rows=1)
    )
    made = splits(recipe, tokenizer)
    assert made.dpo is not None
    for row in made.dpo:
        for side in ("chosen_ids", "rejected_ids"):
            assert row[side].count(tokenizer.eos_token_id) == 1
            assert row[side][-1] == tokenizer.eos_token_id


def test_a_longer_chat_that_begins_with_a_held_out_one_is_held_out(tmp_path: Path) -> None:
    chats = [[f"question {i}", f"answer {i}", f"more {i}", f"end {i}"] for i in range(12)]
    path = write(tmp_path / "a.jsonl", [{"conversations": chat} for chat in chats])
    recipe = one_source(
        path, sources=(Source(name="only", path=str(path), answers="every"),), examples=100, probe=Probe(rows=8)
    )
    tokenizer = make_tokenizer()
    made = splits(recipe, tokenizer)
    for row in made.probe:
        held_out = tokenizer.decode(row.input_ids)
        assert not any(text.startswith(held_out) for text in texts(made, tokenizer))


def test_counts_before_and_after_are_told_where_everything_is_too_long(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*numbered("long enough", 6), *numbered("long enough", 1)])
    with pytest.raises(RecipeError, match=r"\(7 rows, 1 left out by duplicates, 1 of them held out .* 5 too long"):
        splits(one_source(path, max_length=8), make_tokenizer())


def test_facts_count_what_the_filters_took(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered("x", 30))
    source = Source(name="only", path=str(path), rows=20, filters=Filters(min_chars=11))
    facts = inspect_sources([source])["only"]
    used = splits(one_source(path, sources=(source,)), make_tokenizer()).facts["only"]
    assert (facts.rows, facts.rows_read, facts.removed) == (20, 30, {"length": 10})
    assert (used.rows_read, used.removed) == (30, {"length": 10})
