"""The table of what kwargs have to be is that of lm-eval's checkers."""

from __future__ import annotations

import lm_eval.tasks  # noqa: F401  before its checkers
import pytest

from objectives import kwargs
from objectives.checkers import CHECKERS, instructions
from objectives.score import INSTRUCTIONS


def test_every_type_needs_what_its_checker_takes() -> None:
    assert kwargs.NEEDED.keys() == INSTRUCTIONS
    for name, needed in kwargs.NEEDED.items():
        assert sorted(needed) == sorted(CHECKERS[name](name).get_instruction_args_keys()), name


def test_relations_and_languages_are_those_of_the_checkers() -> None:
    assert kwargs.RELATIONS == instructions._COMPARISON_RELATION
    assert set(kwargs.LANGUAGES) == set(instructions._LANGUAGES)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("length_constraints:number_words", {"num_words": 3}, ["lack relation"]),
        (
            "length_constraints:number_words",
            {"num_words": "x", "relation": "most"},
            ["be a number", "one of 'less than'"],
        ),
        (
            "keywords:frequency",
            {"keyword": "a(", "frequency": 1, "relation": "at least"},
            ["regular expression: missing )"],
        ),
        ("punctuation:no_comma", {"words": 1, "num": None}, ["hold words, which it does not know; it takes none"]),
        ("keywords:existence", {"keywords": ["sea", "a**"]}, ["regular expression: multiple repeat"]),
    ],
)
def test_what_is_wrong_is_said_in_words(name: str, given: dict[str, object], said: list[str]) -> None:
    told = list(kwargs.problems(name, given))
    assert len(told) == len(said)
    assert all(words in line for words, line in zip(said, told, strict=True)), told
