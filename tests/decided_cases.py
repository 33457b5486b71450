"""Instructions, and texts at the edge of every rule of objectives.decided: what is undecided, and what decides it."""

from __future__ import annotations

from typing import Any

from objectives.checkers import Check
from objectives.decided import Decider
from objectives.score import Prompt
from objectives.sentences import punkt_available

Instruction = tuple[str, dict[str, Any]]


def prompt(*instructions: Instruction, key: int = 7) -> Prompt:
    names, kwargs = zip(*instructions, strict=True)
    return Prompt(key=key, prompt="Name a river.", instruction_id_list=names, kwargs=kwargs)


def decide(instruction: Instruction, text: str) -> bool | None:
    (verdict,) = Decider(prompt(instruction))(text)
    return verdict


def check(instruction: Instruction) -> Check:
    return Check(prompt(instruction), 0, exact=punkt_available())


CAPITAL: Instruction = ("change_case:english_capital", {})
LOWER: Instruction = ("change_case:english_lowercase", {})
REPEAT: Instruction = ("combination:repeat_prompt", {"prompt_to_repeat": " Name a River. "})
TWO: Instruction = ("combination:two_responses", {})
CONSTRAINED: Instruction = ("detectable_format:constrained_response", {})
JSON: Instruction = ("detectable_format:json_format", {})
TITLE: Instruction = ("detectable_format:title", {})
NO_COMMA: Instruction = ("punctuation:no_comma", {})
QUOTATION: Instruction = ("startend:quotation", {})


def capital_words(n: int, relation: str) -> Instruction:
    return "change_case:capital_word_frequency", {"capital_frequency": n, "capital_relation": relation}


def placeholders(n: int) -> Instruction:
    return "detectable_content:number_placeholders", {"num_placeholders": n}


def postscript(marker: str) -> Instruction:
    return "detectable_content:postscript", {"postscript_marker": marker}


def sections(n: int, spliter: str = "Section") -> Instruction:
    return "detectable_format:multiple_sections", {"section_spliter": spliter, "num_sections": n}


def bullets(n: int) -> Instruction:
    return "detectable_format:number_bullet_lists", {"num_bullets": n}


def highlights(n: int) -> Instruction:
    return "detectable_format:number_highlighted_sections", {"num_highlights": n}


def existence(*keywords: str) -> Instruction:
    return "keywords:existence", {"keywords": list(keywords)}


def forbidden(*words: str) -> Instruction:
    return "keywords:forbidden_words", {"forbidden_words": list(words)}


def frequency(n: int, relation: str, keyword: str = "sea") -> Instruction:
    return "keywords:frequency", {"keyword": keyword, "frequency": n, "relation": relation}


def letters(n: int, relation: str, letter: str = "r") -> Instruction:
    return "keywords:letter_frequency", {"letter": letter, "let_frequency": n, "let_relation": relation}


def nth(n: int, nth_paragraph: int, first_word: str) -> Instruction:
    kwargs = {"num_paragraphs": n, "nth_paragraph": nth_paragraph, "first_word": first_word}
    return "length_constraints:nth_paragraph_first_word", kwargs


def paragraphs(n: int) -> Instruction:
    return "length_constraints:number_paragraphs", {"num_paragraphs": n}


def sentences(n: int, relation: str) -> Instruction:
    return "length_constraints:number_sentences", {"num_sentences": n, "relation": relation}


def words(n: int, relation: str) -> Instruction:
    return "length_constraints:number_words", {"num_words": n, "relation": relation}


LESS, LEAST = "less than", "at least"
# A text that decides nothing, the least that must follow it until something is decided, and what that is.
EDGES: list[tuple[Instruction, str, str, bool]] = [
    (CAPITAL, "THE 2 RIVERS ", "r", False),
    (CAPITAL, "1, 2, 3: ", "r", False),
    (CAPITAL, "", "r", False),
    (CAPITAL, "THE ", "ǅ", False),  # a title-case letter
    (LOWER, "the 2 rivers ", "R", False),
    (LOWER, "1, 2, 3: ", "R", False),
    (capital_words(2, LEAST), "The SEA and a RIVER", " ", True),
    (capital_words(2, LEAST), "SEA RIVER", " a", True),
    (capital_words(2, LESS), "The SEA and a RIVER", "\n", False),
    (capital_words(2, LESS), "(SEA) and the SEa-RIVER 2 and RIVER.", " ", False),
    (REPEAT, " \nname A river", ".", True),
    (REPEAT, "Name a R", "h", False),
    (REPEAT, "Name a", "\n", False),
    (REPEAT, "", "I", False),
    (TWO, "one******two******", "t", False),
    (TWO, "******one******two******", "t", False),
    (TWO, "one****** two*****", "**t", False),
    (TWO, "one****** \n*****", "*", False),
    (TWO, "one******one *****", "*", False),
    (TWO, "******one******one*****", "*", False),
    (placeholders(2), "[a] b] [", "]", True),
    (placeholders(2), "[a] [b\n]", "[]", True),
    (postscript("P.S."), "It runs. p. S", ".", True),
    (postscript("P.P.S"), "It runs. P.P.", "s", True),
    (postscript("P.S"), "It runs. P,", "s", True),  # any other marker is a regular expression
    (CONSTRAINED, "I think. My answer is maybe", ".", True),
    (TITLE, "<<>> <<\n>> << >> <<a>", ">", True),
    (TITLE, "<<<< >", ">a>>", True),
    (JSON, "abcdefghijkl", "m", False),
    (JSON, '```json\n{"a": [1.5e+3, -Infinity]} 123456789012', "3", False),
    (JSON, '{"a": "b\n12345678901 ', "2", False),
    (JSON, '{"a": 1,, "234567890', "1", False),
    (JSON, "[]\u2028" + " " * 20 + "```\n90123456", "7", False),
    (sections(2), "Section 1\nSection ", "2", True),
    (sections(2, " Day"), "Day1 day 2 Da", "y3", True),
    (bullets(1), "* a\n** b\n *", "-", False),
    (bullets(1), "- a\n  ", "-", False),
    (bullets(1), "* a\n\t*", "b", False),
    (bullets(2), "* a\n- b\n\n *", "c", False),
    (bullets(1), "* a\n*", "\n", False),
    (highlights(2), "*a* ** * * *b", "*", True),
    (highlights(1), "** ** **a*", "*", True),
    (highlights(2), "*a* **b*", "*", True),
    (highlights(1), "*a\n*b", "*", True),
    (existence("river", "sea"), "The River meets the SE", "A", True),
    (existence("i.e"), "That is i", "ve", True),
    (forbidden("sea", "salt"), "undersea salty sea", " ", False),
    (forbidden("sea"), "the seal\nSEA", ".", False),
    (forbidden("sea"), "the sea_ sea", "\n", False),
    (frequency(2, LEAST), "The seal, the Se", "a", True),
    (frequency(2, LESS), "The seal, the Se", "a", False),
    (frequency(2, LEAST, " aa "), "aaa", "a", True),
    (letters(3, LEAST), "Rare ive", "r", True),
    (letters(3, LESS), "Rare ive", "R", False),
    (nth(2, 2, "Then"), "One.\n\nThen", "c", False),
    (nth(2, 2, "then"), "One.\n\n'\"The", " ", False),
    (nth(2, 2, "then"), "One.\n\nThen. Two.\n", "\nt", False),
    (nth(2, 1, "one"), "one\n\ntwo\n\n\n\n", "t", False),
    (nth(2, 2, "then"), "One.\n\n\n", "\n", False),
    (nth(2, 1, "one"), "''\"", "'", False),
    (nth(2, 1, "one"), "on", ".", False),
    (nth(2, 1, "one"), "on", "\n", False),
    (paragraphs(1), "***one\n*** ", "t", False),
    (paragraphs(2), " ***one***two\n*** ", "t", False),
    (paragraphs(3), "one*** ", "***", False),
    (words(3, LESS), "It runs ", "t", False),
    (words(3, LEAST), "It's ", "_", True),
    (words(2, LEAST), "a ", "b", True),
    (sentences(2, LEAST), "It runs. It", " ", True),
    (sentences(2, LESS), "Is it? Yes", "\n", False),
    (sentences(3, LEAST), "Dr. Wu met J. Bach. It runs. It", " ", True),
    (sentences(1, LEAST), '"', "a", True),
    (NO_COMMA, "The river runs", ",", False),
    (QUOTATION, " \n", "T", False),
    (QUOTATION, "", "“", False),
]
ENDS = [
    "",
    " ",
    "\n",
    "\n\n",
    ".",
    ",",
    "s",
    "S",
    "'s",
    '"',
    "*",
    "**",
    "******",
    "***x",
    "-",
    ">>",
    "]",
    "1",
    "`",
    "```",
]

# A text that may look broken, and what makes an answer of it that follows.
OPEN: list[tuple[Instruction, str, str]] = [
    (CAPITAL, "1, 2! ", "THE RIVER RUNS TO THE SEA AND THE OLD BRIDGE STANDS"),
    (LOWER, "1, 2! ", "the river runs to the sea and the old bridge stands"),
    (QUOTATION, ' \n"It', ' runs."'),
    (TWO, "one******one", " two"),
    (TWO, "******one******", "two******"),
    (TWO, "one*****", "*two"),
    (JSON, '{"a": "a string that goes on\\n and on', '"}'),
    (JSON, '```Json\n{"a": -Infinit', "y}\n```"),
    (JSON, "``", '`{"a": 1}```'),
    (JSON, "```\n \n", "12 \n```"),
    (JSON, "[1.5e", "-3, 2.0]"),
    (JSON, '["\\ud83d\\ude', '00"]'),
    (REPEAT, "\n NAME a ", "riveR. The Rhine."),
    (bullets(1), "** a\n* b\n c - d\n*", ""),
    (forbidden("sea"), "the seal undersea sea", "l"),
    (letters(3, LESS), "Rare", "!"),
    (words(3, LESS), "It runs", "ever"),
    (frequency(2, LESS), "The seal, the se", "e"),
    (sentences(2, LESS), "It met Dr. Wu and J. Bach at 3.", "5 p.m."),
    (sentences(2, LESS), 'It runs." ', ""),
    (sentences(2, LESS), 'It."No. ', '"'),
    (sentences(2, LESS), "It.\xa0No. ", '"'),
    (capital_words(2, LESS), "The SEA and a RIVER", "bed"),
    (nth(2, 2, "then"), "One.\n\n'", '"Then.'),
    (nth(2, 2, "then"), "One.\n\nThen.", " Two."),
    (nth(1, 1, "νομοσ"), "ΝΟΜΟΣ ", ""),  # the checker knows no final sigma
    (nth(2, 1, "one"), " \nOne\n\nand\n \n", "two\n\n"),
    (nth(1, 1, "one"), "One two\n\n \n\n", "\n\n"),
    (paragraphs(2), "***one***\ntwo*** ", "\n"),
    (paragraphs(1), "***", "one"),
    (paragraphs(1), "one**", "*"),
]
