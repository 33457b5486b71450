"""What every continuation of a text has in common with it: the facts that objectives.decided_rules go by."""

from __future__ import annotations

import itertools
import json
import math
import re
import string
from collections.abc import Sequence

from nltk.tokenize.punkt import PunktSentenceTokenizer


def settled_sentences(punkt: PunktSentenceTokenizer, text: str, enough: float = math.inf) -> int:
    """How many sentences every continuation of `text` has at least; no more than `enough` are looked for.

    Punkt decides on a break by the words before and after it, each up to white space. So the breaks are settled that
    lie before the last word which is complete, that is, has white space after it. Behind the last of them stands one
    more sentence, unless it is quotes and brackets alone, which Punkt may give to the sentence before.
    """
    complete = _up_to_space(text).rstrip()
    last_word = len(_up_to_space(complete))
    breaks, end = 0, 0
    for (_, stop), _ in itertools.pairwise(punkt.span_tokenize(complete, realign_boundaries=False)):
        if stop > last_word or breaks >= enough:
            break
        breaks, end = breaks + 1, stop
    return breaks + bool(re.search(r"\w", text[end:]))


def _up_to_space(text: str) -> str:
    """The text up to its last white space, which is included; only ASCII's is white space to Punkt everywhere."""
    return text[: 1 + max(text.rfind(space) for space in string.whitespace)]


def settled_capital_words(text: str) -> int:
    """Words of capital letters that every continuation has at least. However nltk cuts the text up, every stretch
    between white space in which all letters are capital gives one word of that kind, or more."""
    words = text.split()
    return sum(map(str.isupper, words)) - (words[-1].isupper() and not text[-1].isspace())


def one_is_empty(parts: Sequence[str]) -> bool:
    """Whether a part between two separators is blank."""
    return any(not part.strip() for part in parts[1:-1])


def filled(parts: Sequence[str]) -> int:
    """How many parts are not blank. The last one may yet be split, but what stands in it is part of something."""
    return sum(bool(part.strip()) for part in parts)


def may_begin(paragraph: str, wanted: str, *, complete: bool) -> bool:
    """Whether the first word of a paragraph, without punctuation, is `wanted`, or can become it unless `complete`."""
    words = paragraph.split(maxsplit=1)
    if not words:
        return not complete
    word = words[0].lstrip("'").lstrip('"')
    bare = re.split("[.,?!'\"]", word, maxsplit=1)[0]
    complete = complete or bare != word or paragraph.lstrip() != words[0]
    low = "".join(map(str.lower, bare))  # letter by letter, as the checker does: a final sigma is none then
    return low == wanted if complete else wanted.startswith(low)


# The longest that json looks ahead from where it then reports an error ("-Infinity"), and a fence that may follow.
_JSON_LOOKAHEAD = len("-Infinity") + len("```")


def is_no_json(text: str) -> bool:
    """Whether JSON, with or without a fence around it, cannot begin with `text`: it has an error so far from its end
    that the error is not that the text ends. A string that is not closed may still be."""
    body = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    body = body.strip()
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        rest = body[error.pos :].lstrip()  # white space before a closing fence may be more than JSON's own
        return len(rest) > _JSON_LOOKAHEAD and not error.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):  # an integer of thousands of digits, thousands of brackets
        return False
    return False
