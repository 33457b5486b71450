"""[[data]] with tables inside: each error at its key, absolute paths, and prompts that data must not overlap with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tiny

from search import config, space, study
from search.errors import ConfigError
from search.survey import survey
from train.recipe import Filters

WRONG = """
[[data]]
name = "mapped"
path = "mapped.jsonl"
fields = { promt = "question" }

[[data]]
name = "trees"
path = "trees.jsonl"
format = "oast"
streaming = true
rows = 1
[data.filters]
min_word = 3
languages = ["english"]
similarity = 0.2
overlap_with = [{ pth = "y" }, 3]

[[data]]
name = "odd"
path = "odd.jsonl"
filters = { min_chars = 5, max_chars = 3 }
"""
SAID = {
    'fields = { promt = "question" }': "[[data]] mapped fields.promt: unknown key; did you mean prompt? (known: pro",
    'format = "oast"': "[[data]] trees format: it is \"oast\"; it must be 'auto', 'dolly', 'oasst', 'lima' or",
    "streaming = true": "[[data]] trees streaming: streaming data sets are refused: no run could be repeated",
    "rows = 1": "[[data]] trees rows: it is 1; it must be at least 2",
    "min_word = 3": "[[data]] trees filters.min_word: unknown key; did you mean min_words? (known: min_chars, max_",
    'languages = ["english"]': '[[data]] trees filters.languages.0: it is "english"; it must be a language as lang',
    "similarity = 0.2": "[[data]] trees filters.similarity: it is 0.2; it must be at least 0.7 and at most 1",
    'overlap_with = [{ pth = "y" }, 3]': "[[data]] trees filters.overlap_with.0.pth: unknown key; did you mean path?",
    "filters = { min_chars = 5, max_chars = 3 }": "[[data]] odd filters: min_chars is 5, above max_chars, which is 3",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_study(tmp_path_factory.mktemp("data"))


def edited(whole: Path, name: str, old: str, new: str) -> Path:
    """The tiny study with another text, beside it."""
    text = whole.read_text()
    assert old in text
    path = whole.with_name(name)
    path.write_text(text.replace(old, new))
    return path


def test_what_is_wrong_inside_a_table_is_named_with_its_line_and_key(whole: Path) -> None:
    path = edited(whole, "wrong.toml", "\n[probe]", f"{WRONG}\n[probe]")
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    told = str(raised.value).split("\n")
    lines = path.read_text().splitlines()
    for line, said in SAID.items():
        assert any(problem.startswith(f"{path}:{lines.index(line) + 1}: {said}") for problem in told), (said, told)


def test_relative_paths_start_from_the_files_folder(whole: Path) -> None:
    new = 'path = "plain.jsonl"\nfilters = { overlap_with = ["../prompts/a.jsonl"] }'
    (first, *_) = config.load(edited(whole, "paths.toml", 'path = "plain.jsonl"', new)).data
    assert first.path == str(whole.parent / "plain.jsonl")
    assert [prompts.path for prompts in first.filters.overlap_with] == [str(whole.parent.parent / "prompts/a.jsonl")]


def test_data_are_compared_with_the_prompts_that_are_scored_and_the_recipe_pins_them(whole: Path) -> None:
    rows = tiny.rows(3)
    prompt = "Say red in way 3 and in all other ways that you know"
    lines = [*rows, {"prompt": f"Now: {prompt}!", "response": "red"}]
    (whole.parent / "plain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = whole.parent / "prompts.jsonl"
    first, *others = prompts.read_text().splitlines()
    prompts.write_text("\n".join([json.dumps({**json.loads(first), "prompt": prompt}), *others]))
    new = 'path = "chat.jsonl"\nfilters = { overlap = "keep" }'
    asked = config.load(edited(whole, "kept.toml", 'path = "chat.jsonl"', new))
    seen = survey(asked)
    assert (seen.sources["plain"].rows, seen.sources["plain"].removed) == (3, {"overlap": 1})
    plain, chat, pairs = space.recipe(asked, {}, seen).sources
    for source in (plain, pairs):
        (judged,) = source.filters.overlap_with
        assert judged.path == str(prompts)
        assert judged.sha256 == hashlib.sha256(prompts.read_bytes()).hexdigest() == seen.prompts_sha256
    assert chat.filters == Filters(overlap="keep")


def test_a_study_with_other_filters_is_another_study(whole: Path) -> None:
    new = 'path = "chat.jsonl"\nfilters = { min_words = 1 }'
    before, after = (config.load(path) for path in (whole, edited(whole, "long.toml", 'path = "chat.jsonl"', new)))
    known, now = study.identity(before, survey(before)), study.identity(after, survey(after))
    assert known != now
    assert known["data"]["chat"]["sha256"] == now["data"]["chat"]["sha256"]
    assert (known["data"]["chat"]["filters"]["min_words"], now["data"]["chat"]["filters"]["min_words"]) == (0, 1)
