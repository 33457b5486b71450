"""For each instruction type the rule that says when the strict verdict on an answer in the making is final.

A rule says True or False where lm-eval's checker (tasks/ifeval/instructions.py) says so on this text and on every
continuation of it, and None else. What it counts is therefore something that no continuation takes away: a match that
ends before the text does, a word that is there however long it grows. The last word of a text may go on ("cat",
"category"), and the answer may as well end just here, at the length limit.

A type that only ever needs something to be there can be decided as followed, a type that forbids something as broken; a
type that asks for an exact number can only be exceeded.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from objectives.prefixes import filled, is_no_json, may_begin, one_is_empty, settled_capital_words, settled_sentences
from objectives.sentences import splitter

UNDECIDABLE: Mapping[str, str] = {
    "language:response_language": "the detected language is that of the whole answer, and more text can change it",
    "startend:end_checker": "any answer can still come to end with the phrase, and to go on after it",
}


@dataclass(frozen=True)
class Rule:
    """What one instruction's verdict is on a text that is not blank and on every continuation; None: not decided.

    `outcomes` are the verdicts that it can ever decide.
    """

    decide: Callable[[str], bool | None]
    outcomes: frozenset[bool]


_Maker = Callable[..., Rule]
_MAKERS: dict[str, tuple[tuple[str, ...], _Maker]] = {}  # the kwargs that each needs, and what makes a rule of them


def _of(name: str, *needs: str) -> Callable[[_Maker], _Maker]:
    def register(maker: _Maker) -> _Maker:
        _MAKERS[name] = (needs, maker)
        return maker

    return register


def rule_of(name: str, kwargs: Mapping[str, Any]) -> Rule:
    """The rule of one instruction; KeyError for an unknown id.

    lm-eval draws what kwargs leave open (absent, empty, 0 or negative): nothing is ever known then.
    """
    if name in UNDECIDABLE:
        return _NEVER
    needs, maker = _MAKERS[name]
    values = [kwargs.get(need) for need in needs]
    if any(not value or (isinstance(value, int | float) and value < 0) for value in values):
        return _NEVER
    return maker(*values)


_NEVER = Rule(lambda _: None, frozenset())


def _limit(relation: str, threshold: float, count: Callable[[str], int]) -> Rule:
    """For a count that no continuation lowers: once it is at the threshold, "at least" is met, "less than" broken."""
    reached = relation == "at least"
    return Rule(lambda text: reached if count(text) >= threshold else None, frozenset({reached}))


def _followed_once(found: Callable[[str], object]) -> Rule:
    """Followed as soon as something is found that no continuation takes away; never known to be broken."""
    return Rule(lambda text: True if found(text) else None, frozenset({True}))


def _broken_once(found: Callable[[str], object]) -> Rule:
    """Broken as soon as something is found that no continuation takes away; never known to be followed."""
    return Rule(lambda text: False if found(text) else None, frozenset({False}))


def _has_fixed_length(pattern: str) -> bool:
    """Whether a keyword, which the checkers take as a regular expression, matches a fixed number of characters and
    looks at no others."""
    return not set(pattern) & set(r"\^$*+?()[]{}|")


# ---- keywords


@_of("keywords:existence", "keywords")
def _existence(keywords: Sequence[str]) -> Rule:
    if not all(map(_has_fixed_length, keywords)):
        return _NEVER
    searches = [re.compile(keyword, re.IGNORECASE).search for keyword in keywords]
    return _followed_once(lambda text: all(search(text) for search in searches))


@_of("keywords:frequency", "keyword", "frequency", "relation")
def _frequency(keyword: str, frequency: float, relation: str) -> Rule:
    if not _has_fixed_length(keyword):
        return _NEVER
    find = re.compile(keyword.strip(), re.IGNORECASE).findall
    return _limit(relation, frequency, lambda text: len(find(text)))


@_of("keywords:forbidden_words", "forbidden_words")
def _forbidden(words: Sequence[str]) -> Rule:
    """A word counts once the character after it is known: at the end of the text it may be part of a longer one."""
    if not all(map(_has_fixed_length, words)):
        return _NEVER
    searches = [re.compile(rf"\b{word}\b(?=[\s\S])", re.IGNORECASE).search for word in words]
    return _broken_once(lambda text: any(search(text) for search in searches))


@_of("keywords:letter_frequency", "letter", "let_frequency", "let_relation")
def _letters(letter: str, frequency: float, relation: str) -> Rule:
    low = letter.lower()
    if len(letter) > 1 or low not in string.ascii_lowercase:  # lm-eval draws another letter
        return _NEVER
    return _limit(relation, frequency, lambda text: text.lower().count(low))


# ---- lengths


@_of("length_constraints:number_words", "num_words", "relation")
def _words(threshold: float, relation: str) -> Rule:
    find = re.compile(r"\w+").findall
    shortest = 2 * threshold - 1  # characters of so many words
    return _limit(relation, threshold, lambda text: len(find(text)) if len(text) >= shortest else 0)


@_of("length_constraints:number_sentences", "num_sentences", "relation")
def _sentences(threshold: float, relation: str) -> Rule:
    punkt = splitter()
    ends = re.compile(r"[.?!](?!\w)").findall  # Punkt breaks nowhere else, and is slow

    def count(text: str) -> int:
        return settled_sentences(punkt, text, threshold) if len(ends(text)) >= threshold - 1 else 0

    return _limit(relation, threshold, count)


@_of("length_constraints:number_paragraphs", "num_paragraphs")
def _paragraphs(threshold: float) -> Rule:
    split = re.compile(r"\s?\*\*\*\s?").split
    return _broken_once(lambda text: one_is_empty(parts := split(text)) or filled(parts) > threshold)


@_of("length_constraints:nth_paragraph_first_word", "num_paragraphs", "nth_paragraph", "first_word")
def _nth_paragraph(paragraphs: float, nth: int, first_word: str) -> Rule:
    if nth > paragraphs:  # lm-eval draws another one
        return _NEVER
    wanted = first_word.lower()

    def broken(text: str) -> bool:
        parts = text.split("\n\n")
        if filled(parts) > paragraphs:
            return True
        return len(parts) >= nth and not may_begin(parts[nth - 1], wanted, complete=len(parts) > nth)

    return _broken_once(broken)


# ---- formats


@_of("detectable_format:number_bullet_lists", "num_bullets")
def _bullets(threshold: float) -> Rule:
    stars = re.compile(r"^\s*\*[^\*].*$", re.MULTILINE).findall
    dashes = re.compile(r"^\s*-.*$", re.MULTILINE).findall
    return _broken_once(lambda text: len(stars(text)) + len(dashes(text)) > threshold)


@_of("detectable_format:number_highlighted_sections", "num_highlights")
def _highlights(threshold: float) -> Rule:
    single = re.compile(r"\*[^\n\*]*\*").findall
    double = re.compile(r"\*\*[^\n\*]*\*\*").findall
    found = [single, double]
    return _limit(
        "at least", threshold, lambda text: sum(bool(m.strip("*").strip()) for find in found for m in find(text))
    )


@_of("detectable_format:multiple_sections", "section_spliter", "num_sections")
def _sections(section: str, threshold: float) -> Rule:
    if not _has_fixed_length(section):
        return _NEVER
    find = re.compile(rf"\s?{section.strip()}\s?\d+\s?").findall
    return _limit("at least", threshold, lambda text: len(find(text)))


@_of("detectable_format:constrained_response")
def _constrained() -> Rule:
    return _followed_once(re.compile(r"My answer is (?:yes|no|maybe)\.").search)


@_of("detectable_format:title")
def _title() -> Rule:
    find = re.compile(r"<<[^\n]+>>").findall
    return _followed_once(lambda text: any(title.lstrip("<").rstrip(">").strip() for title in find(text)))


@_of("detectable_format:json_format")
def _json() -> Rule:
    return _broken_once(is_no_json)


# ---- contents


@_of("detectable_content:number_placeholders", "num_placeholders")
def _placeholders(threshold: float) -> Rule:
    find = re.compile(r"\[.*?\]").findall
    return _limit("at least", threshold, lambda text: len(find(text)))


@_of("detectable_content:postscript", "postscript_marker")
def _postscript(marker: str) -> Rule:
    marker = marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    if marker not in patterns and not (marker.isascii() and _has_fixed_length(marker)):
        return _NEVER
    search = re.compile(patterns.get(marker, marker.lower())).search
    return _followed_once(lambda text: search(text.lower()))


# ---- cases and punctuation


@_of("change_case:english_capital")
def _capital() -> Rule:
    return _broken_once(lambda text: not ("A" + text).isupper())  # of a text without letters nothing is known yet


@_of("change_case:english_lowercase")
def _lowercase() -> Rule:
    return _broken_once(lambda text: not ("a" + text).islower())


@_of("change_case:capital_word_frequency", "capital_frequency", "capital_relation")
def _capital_words(threshold: float, relation: str) -> Rule:
    return _limit(relation, threshold, settled_capital_words)


@_of("punctuation:no_comma")
def _no_comma() -> Rule:
    return _broken_once(lambda text: "," in text)


@_of("startend:quotation")
def _quotation() -> Rule:
    """Only the first quotation mark can be missed for ever: the last may still come."""
    return _broken_once(lambda text: text.lstrip()[0] != '"')


# ---- combinations


@_of("combination:two_responses")
def _two_responses() -> Rule:
    def broken(text: str) -> bool:
        parts = text.split("******")
        answers = [part.strip() for part in parts if part.strip()]
        settled = [part.strip() for part in parts[:-1] if part.strip()]
        return one_is_empty(parts) or len(answers) > 2 or (len(settled) == 2 and settled[0] == settled[1])

    return _broken_once(broken)


@_of("combination:repeat_prompt", "prompt_to_repeat")
def _repeat(prompt_to_repeat: str) -> Rule:
    wanted = prompt_to_repeat.strip().lower()

    def decide(text: str) -> bool | None:
        if "Σ" in text:  # the only letter whose small form depends on what follows
            return None
        begin = text.lstrip()[: len(wanted) + 1].lower()
        if begin.startswith(wanted):
            return True
        return None if wanted.startswith(begin) else False

    return Rule(decide, frozenset({True, False}))
