"""Decided answers against lm-eval's checkers on made texts and all their prefixes: no verdict changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from decided_cases import (
    CAPITAL,
    CONSTRAINED,
    JSON,
    LEAST,
    LESS,
    LOWER,
    NO_COMMA,
    QUOTATION,
    REPEAT,
    TITLE,
    TWO,
    Instruction,
    bullets,
    capital_words,
    check,
    existence,
    forbidden,
    frequency,
    highlights,
    letters,
    nth,
    paragraphs,
    placeholders,
    postscript,
    prompt,
    sections,
    sentences,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from objectives.checkers import fixed_world
from objectives.decided import Decider
from objectives.prefixes import settled_sentences
from objectives.sentences import fallback


@pytest.fixture(autouse=True, scope="module")
def _seeded() -> Iterator[None]:
    with fixed_world():
        yield


SMALL = st.integers(1, 3)
RELATION = st.sampled_from([LESS, LEAST])
COMMON = [
    "a",
    "The sea",
    "B",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    ".",
    "!",
    "? ",
    ",",
    ":",
    "'",
    '"',
    "*",
    "-",
    "(",
    ")",
    "1",
]
COMMON += ["Dr.", "Σ", "İ", "ß", "\xa0", "\u2028", "ǅ", "é", "“", "”", "K", "ſ", "\x1f"]
JSON_PIECES = [
    "```",
    "```json\n",
    "{",
    "}",
    "[",
    "]",
    '"',
    '"a": ',
    ",",
    "1",
    "-",
    "1.",
    "e+",
    "tru",
    "true",
    "nul",
    "-Infin",
]
JSON_PIECES += ["ity", "NaN", "\\", "\\u12", "\\ud83d", "\n", "words of prose ", '{"a": [1, 2]}', "\n```", " " * 13]
MADE: dict[str, tuple[st.SearchStrategy[Instruction], list[str]]] = {
    "capital": (st.just(CAPITAL), ["THE", "SEA", "1 "]),
    "lower": (st.just(LOWER), ["the", "sea", "1 "]),
    "capital words": (
        st.builds(capital_words, SMALL, RELATION),
        ["SEA", "SEA ", " A", "I'm ", "GONNA ", "CANNOT ", "'TIS ", "U.S. ", "-", "--", "/", "...", "SEA. The ", "N'T"],
    ),
    "repeat": (
        st.sampled_from(
            [REPEAT, (REPEAT[0], {"prompt_to_repeat": "Σας İ."}), (REPEAT[0], {"prompt_to_repeat": "ΝΟΜΟΣ"})]
        ),
        ["Name a river.", "name A rivER", "Name ", "a", " river", ".", "σας i̇.", "ΝΟΜΟΣ", "νομος", "Σ", "ΣΑΣ İ."],
    ),
    "two": (st.just(TWO), ["******", "***", "*****", "a", "a ", "b"]),
    "placeholders": (st.builds(placeholders, SMALL), ["[", "]", "[a]", "[]", "\n"]),
    "postscript": (
        st.sampled_from([*map(postscript, ["P.S.", "P.P.S", "P.S", "Σς"])]),
        ["P.", "p.", "S.", "s", "P.S", "P.P.S.", " ", "Ps", "σς"],
    ),
    "constrained": (st.just(CONSTRAINED), ["My answer is ", "yes", "no.", "maybe", "."]),
    "title": (st.just(TITLE), ["<", "<<", ">", ">>", "<<a>>", "\n"]),
    "json": (st.just(JSON), JSON_PIECES),
    "sections": (
        st.builds(sections, SMALL, st.sampled_from(["Section", "1", "1 1"])),
        ["Section", " ", "1", "23", "\n"],
    ),
    "bullets": (st.builds(bullets, SMALL), ["*", "* ", "-", "- a", "\n", "\n*", "\n\n", "**", " "]),
    "highlights": (st.builds(highlights, SMALL), ["*", "**", "***", "a", "*a*", "\n", " "]),
    "existence": (st.sampled_from([existence("sea", "river"), existence("s.a")]), ["sea", "RIVE", "r", "s", "ea"]),
    "forbidden": (
        st.sampled_from([forbidden("sea", "river"), forbidden("s.a"), forbidden("s.a."), forbidden("sk")]),
        ["sea", "SEA", "river", "s", "_", "ſea", "sK", "s.a", " "],
    ),
    "frequency": (
        st.builds(frequency, SMALL, RELATION, st.sampled_from(["sea", "aa", "s.a", " a "])),
        ["sea", "SE", "a", "aa", "ſea", "s\na"],
    ),
    "letters": (st.builds(letters, SMALL, RELATION, st.sampled_from("riKk")), ["r", "R", "river", "k"]),
    "nth": (
        st.builds(nth, st.just(3), SMALL, st.sampled_from(["then", "a", "Σας"])),
        ["then", "The", "n", "\n", "\n\n", "'", '"', ".", "a ", "σας"],
    ),
    "paragraphs": (st.builds(paragraphs, SMALL), ["***", "**", "*", " ***\n", "a", "\n"]),
    "sentences": (
        st.builds(sentences, SMALL, RELATION),
        ["It runs.", "Yes!", "Why? ", '"No." ', "U.S.", "J. ", "e.g. ", "3. ", "...", " ", " ", "It ", '"', ".)", "\n"],
    ),
    "words": (st.builds(words, SMALL, RELATION), ["a", "a ", "_", "'s", " ", "é"]),
    "comma": (st.just(NO_COMMA), [",", "，"]),
    "quotation": (st.just(QUOTATION), ['"', "a", " "]),
}


def made(name: str) -> st.SearchStrategy[tuple[Instruction, str]]:
    instructions, pieces = MADE[name]
    piece = st.sampled_from(pieces) | st.sampled_from(pieces) | st.sampled_from(COMMON)
    return st.tuples(instructions, st.lists(piece, max_size=16).map("".join))


@pytest.mark.parametrize("name", MADE)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_no_continuation_changes_a_decided_verdict(name: str, data: st.DataObject) -> None:
    instruction, text = data.draw(made(name))
    judge, decider = check(instruction), Decider(prompt(instruction))
    prefixes = [text[:end] for end in range(len(text) + 1)]
    first = next(((n, v) for n, p in enumerate(prefixes) if (v := decider(p)[0]) is not None), None)
    if first is not None:
        assert {judge(prefix) for prefix in prefixes[first[0] :]} == {first[1]}


# ---- sentences, whatever the splitter has learned


def learned() -> PunktSentenceTokenizer:
    """A splitter that knows what the trained one knows of, too: collocations, starters and the case of words."""
    parameters = PunktParameters()
    parameters.abbrev_types.update(["dr", "e.g", "it", "u.s"])
    parameters.collocations.update([("runs", "it"), ("##number##", "the"), ("j", "bach")])
    parameters.sent_starters.update(["the", "it", "yes"])
    for word, context in [("the", 2 + 64), ("bach", 4), ("it", 2 + 4 + 32), ("yes", 2)]:
        parameters.add_ortho_context(word, context)
    return PunktSentenceTokenizer(parameters)


SPLITTERS = {"fallback": fallback(), "learned": learned()}
PROSE = [
    "It ",
    "runs.",
    "runs. ",
    "the ",
    "The",
    "J. ",
    "Bach",
    "Dr.",
    "e.g.",
    "3.",
    "3.5",
    "?",
    "! ",
    "...",
    ". . .",
    " ",
]
PROSE += ["\n", "\n\n", '"', "'", ")", "(", "”", "--", "\xa0", "\u2003", "\x1f", "yes", ", ", "it.", ".)", "a", "_"]


@pytest.mark.parametrize("punkt", SPLITTERS.values(), ids=SPLITTERS)
@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(st.sampled_from(PROSE), max_size=16))
def test_no_continuation_has_fewer_sentences(punkt: PunktSentenceTokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    prefixes = [text[:end] for end in range(len(text) + 1)]
    counts = [len(punkt.tokenize(prefix)) for prefix in prefixes]
    settled = [settled_sentences(punkt, prefix) for prefix in prefixes]
    assert settled == sorted(settled)
    assert all(least <= min(counts[end:]) for end, least in enumerate(settled))
