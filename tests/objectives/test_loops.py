"""Answers that end in a loop, and answers that only look a little like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.loops import CHARACTERS, TIMES, ends_in_loop

PIECES = st.text(alphabet="ab cé\n漢", min_size=1, max_size=60).filter(lambda piece: piece == piece.strip())


@given(st.text(max_size=40), PIECES, st.integers(0, 59))
def test_any_piece_repeated_often_enough_is_a_loop_wherever_it_is_cut(before: str, piece: str, cut: int) -> None:
    rounds = max(TIMES, -(-CHARACTERS // len(piece))) + 1
    assert ends_in_loop(before + piece * rounds + piece[: cut % len(piece)])


@given(st.text(max_size=CHARACTERS - 1))
def test_a_short_answer_is_none(text: str) -> None:
    assert not ends_in_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"{number}. the river runs to the sea" for number in range(40)),  # counts up
        "the river runs to the sea, past the old bridge and the mill. " * 2 + "the end",
        "to and fro " * 30 + "but then it stopped, and everybody on the old bridge looked at the river",  # ended
        "the river runs to the sea, past the old bridge and the mill, for ever. " * 2,
    ],
)
def test_what_is_no_loop(text: str) -> None:
    assert not ends_in_loop(text)


@pytest.mark.parametrize(
    "text", ["so " * 60, "ha" * 200 + "\n\n", "A start.\n" + "- one\n- two\n" * 12, "start " + "x" * 120]
)
def test_what_is_one(text: str) -> None:
    assert ends_in_loop(text)
