"""What the kwargs of each type of instruction have to be, so that its checker can use them. Imports no torch.

lm-eval's checkers are code that loads much; that this table is theirs is a test's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

RELATIONS = ("less than", "at least")
LANGUAGES = tuple("ar bg bn de en es fa fi fr gu he hi it ja kn ko ml mr ne pa pl pt ru sw ta te th uk ur vi".split())

Problem = Callable[[object], str]  # what a value has to be; empty where it is


def _number(value: object) -> str:
    return "" if isinstance(value, (int, float)) else "a number"


def _text(value: object) -> str:
    return "" if isinstance(value, str) else "a string"


def _one_of(known: tuple[str, ...]) -> Problem:
    return lambda value: "" if value in known else f"one of {', '.join(map(repr, known))}"


def _pattern(value: object) -> str:
    """A keyword is a regular expression to its checker."""
    if not isinstance(value, str):
        return "a string"
    try:
        re.compile(value)
    except re.error as error:
        return f"a regular expression: {error.msg}; put a backslash before such characters"
    return ""


def _patterns(value: object) -> str:
    if not isinstance(value, list):
        return "a list of strings"
    return next((problem for one in value if (problem := _pattern(one))), "")


NEEDED: Mapping[str, Mapping[str, Problem]] = {
    "change_case:capital_word_frequency": {"capital_frequency": _number, "capital_relation": _one_of(RELATIONS)},
    "change_case:english_capital": {},
    "change_case:english_lowercase": {},
    "combination:repeat_prompt": {"prompt_to_repeat": _text},
    "combination:two_responses": {},
    "detectable_content:number_placeholders": {"num_placeholders": _number},
    "detectable_content:postscript": {"postscript_marker": _pattern},
    "detectable_format:constrained_response": {},
    "detectable_format:json_format": {},
    "detectable_format:multiple_sections": {"section_spliter": _pattern, "num_sections": _number},
    "detectable_format:number_bullet_lists": {"num_bullets": _number},
    "detectable_format:number_highlighted_sections": {"num_highlights": _number},
    "detectable_format:title": {},
    "keywords:existence": {"keywords": _patterns},
    "keywords:forbidden_words": {"forbidden_words": _patterns},
    "keywords:frequency": {"keyword": _pattern, "frequency": _number, "relation": _one_of(RELATIONS)},
    "keywords:letter_frequency": {"letter": _text, "let_frequency": _number, "let_relation": _one_of(RELATIONS)},
    "language:response_language": {"language": _one_of(LANGUAGES)},
    "length_constraints:nth_paragraph_first_word": {
        "num_paragraphs": _number,
        "nth_paragraph": _number,
        "first_word": _text,
    },
    "length_constraints:number_paragraphs": {"num_paragraphs": _number},
    "length_constraints:number_sentences": {"num_sentences": _number, "relation": _one_of(RELATIONS)},
    "length_constraints:number_words": {"num_words": _number, "relation": _one_of(RELATIONS)},
    "punctuation:no_comma": {},
    "startend:end_checker": {"end_phrase": _text},
    "startend:quotation": {},
}


def problems(name: str, kwargs: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with the kwargs of an instruction of that type, a sentence each. Nulls, which files have for the
    kwargs of other types, count as absent."""
    needed, given = NEEDED[name], {key: value for key, value in kwargs.items() if value}
    if absent := [key for key in needed if key not in given]:
        yield f"kwargs of {name} lack {', '.join(absent)} (absent, null, 0 or empty)"
    if unknown := sorted(given.keys() - needed):
        yield f"kwargs of {name} hold {', '.join(unknown)}, which it does not know; it takes {_listed(needed)}"
    for key, value in given.items():
        if key in needed and (wanted := needed[key](value)):
            yield f"{key} of {name} is {value!r}; it has to be {wanted}"


def _listed(names: Mapping[str, Problem]) -> str:
    return ", ".join(names) or "none"
