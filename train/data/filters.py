"""Which rows of a source are left out, and how many for which reason. A pure function of rows, settings and prompts.

In this order; a row counts under the first that it falls to:

    same answers     a pair whose two answers are the same text teaches nothing; always left out
    length           of the answer, of both answers of a pair, in characters and in words (what is between spaces)
    language         what the data set says in `lang`, else langdetect on prompt and answer, seeded. Texts of less than
                     20 letters cannot be told, and stay
    refusals         answers that begin by declining ("As an AI language model, I cannot ..."); of a pair, the chosen
    duplicates       the same prompt and answers but for white space: the first stays
    overlap          see train.data.overlap: prompts that share eight words in a row with an evaluation prompt
    near duplicates  see train.data.near: the first stays
    rows             beyond the cap of the source: those with the lowest hash of their text stay

Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from train.data.near import near_duplicates
from train.data.overlap import overlaps, sequences_of
from train.data.refusals import refuses
from train.data.rows import Example, Message, Pair, Row, texts
from train.recipe import Filters

_FEWEST_LETTERS = 20
_LOOKED_AT = 600  # characters of a row that tell its language

Keys = tuple[bytes, ...]


def keys(row: Row) -> Keys:
    """A digest of the whole chat (of both, for a pair) first, then of the chat up to each earlier answer.

    White space is made even: rows with a key in common would show one and the same answer to a model twice.
    """
    last = tuple(_key(row.prompt, answer) for answer in _answers(row))
    turns = row.prompt
    return (*last, *(_key(turns[:n], turn.content) for n, turn in enumerate(turns) if turn.role == "assistant"))


def _key(prompt: Sequence[Message], answer: str) -> bytes:
    turns = [f"{message.role}:{' '.join(message.content.split())}" for message in prompt]
    return hashlib.sha256("\0".join([*turns, " ".join(answer.split())]).encode()).digest()


def kept(rows: Sequence[Row], asked: Filters, cap: int | None, removed: Counter[str]) -> list[int]:
    """Indices of the rows that stay, in their order; `removed` counts the others by reason.

    Raises RecipeError where a file of evaluation prompts is not there or not what was pinned.
    """
    left = list(range(len(rows)))
    for reason, drops in _each(asked):
        left = _without(left, [drops(rows[index]) for index in left], reason, removed)
    if asked.duplicates == "near":
        near = near_duplicates(["\n".join(texts(rows[index])) for index in left], asked.similarity)
        left = _without(left, near, "near duplicates", removed)
    if cap is not None and len(left) > cap:
        lowest = set(sorted(left, key=lambda index: (keys(rows[index])[0], index))[:cap])
        left = _without(left, [index not in lowest for index in left], "rows", removed)
    return left


def _without(left: list[int], dropped: list[bool], reason: str, removed: Counter[str]) -> list[int]:
    if gone := sum(dropped):
        removed[reason] += gone
    return [index for index, gone in zip(left, dropped, strict=True) if not gone]


def _each(asked: Filters) -> Iterator[tuple[str, Callable[[Row], bool]]]:
    """The filters that judge a row by itself (or by those before it), each with what it is counted as."""
    yield "same answers", lambda row: isinstance(row, Pair) and row.chosen.split() == row.rejected.split()
    if (asked.min_chars, asked.max_chars, asked.min_words, asked.max_words) != (0, None, 0, None):
        yield "length", lambda row: not all(_long_enough(answer, asked) for answer in _answers(row))
    if asked.languages:
        yield "language", lambda row: (found := language(row)) != "" and not _among(found, asked.languages)
    if asked.refusals == "drop":
        yield "refusals", lambda row: refuses(_answers(row)[0])
    if asked.duplicates != "keep":
        yield "duplicates", _Seen().again
    if asked.overlap == "drop" and (sequences := sequences_of(asked.overlap_with)):
        yield "overlap", lambda row: any(overlaps(text, sequences) for text in _asked(row))


class _Seen(set[Keys]):
    """The rows that came by."""

    def again(self, row: Row) -> bool:
        """Whether this row has come by before; from now on it has."""
        whole = keys(row)[: 1 if isinstance(row, Example) else 2]
        known = whole in self
        self.add(whole)
        return known


def _answers(row: Row) -> tuple[str, ...]:
    return (row.answer,) if isinstance(row, Example) else (row.chosen, row.rejected)


def _asked(row: Row) -> Iterator[str]:
    return (message.content for message in row.prompt if message.role != "assistant")


def _long_enough(answer: str, asked: Filters) -> bool:
    chars, words = len(answer), len(answer.split())
    if chars < asked.min_chars or words < asked.min_words:
        return False
    return not (asked.max_chars and chars > asked.max_chars) and not (asked.max_words and words > asked.max_words)


# Languages


def language(row: Row) -> str:
    """The ISO 639-1 code that the data set gives, else the one that langdetect finds; empty where that cannot tell."""
    if row.language:
        return row.language
    text = "\n".join([*list(_asked(row))[-1:], _answers(row)[0]])[:_LOOKED_AT]
    return _detected(text) if sum(map(str.isalpha, text)) >= _FEWEST_LETTERS else ""


def _among(found: str, wanted: Sequence[str]) -> bool:
    """Whether a language is asked for; "zh" takes zh-cn and zh-tw."""
    return any(found.lower() == one.lower() or found.lower().split("-")[0] == one for one in wanted)


def _detected(text: str) -> str:
    from langdetect import LangDetectException

    detector = _factory().create()
    detector.n_trial = 3  # of 7: three of 1,500 answers are then called otherwise, in half the time
    detector.append(text)
    try:
        code: str = detector.detect()
    except LangDetectException:
        return ""
    return "" if code == "unknown" else code


@lru_cache(maxsize=1)
def _factory() -> Any:
    """langdetect's profiles with a seed of their own: the module's own factory is shared, and draws at random."""
    from langdetect import detector_factory

    factory = detector_factory.DetectorFactory()
    factory.load_profile(detector_factory.PROFILES_DIRECTORY)
    factory.seed = 0
    return factory
