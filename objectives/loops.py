"""Whether an answer ends in a loop, as answers of models do that never learned to stop. Pure, imports nothing."""

from __future__ import annotations

TIMES = 3
CHARACTERS = 120
_TAIL = 48  # what is searched for further left: shorter than a loop's two last rounds


def ends_in_loop(text: str) -> bool:
    """Whether the end of `text` is one piece, at least 3 times over and at least 120 characters in all.

    The last round may be cut anywhere. A piece that is not all the same each time (a number that counts up) is no loop.
    Trailing white space does not count.
    """
    text = text.rstrip()
    if len(text) < CHARACTERS:
        return False
    tail, end = text[-_TAIL:], len(text)
    while (at := text.rfind(tail, 0, end - 1)) >= 0:
        period, end = len(text) - _TAIL - at, at + _TAIL
        length = max(CHARACTERS, TIMES * period)
        if length > len(text):
            return False
        if text[-length:-period] == text[period - length :]:
            return True
    return False
