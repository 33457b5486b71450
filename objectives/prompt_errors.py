"""What is wrong with a file of prompts, told once for all the lines that have it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def grouped(wrong: Iterable[tuple[str, str]], most: int) -> list[str]:
    """One sentence for each problem of (place, problem) pairs, with the first place and how many more there are; `most`
    of them, and how many are left out."""
    places: dict[str, list[str]] = {}
    for place, problem in wrong:
        places.setdefault(problem, []).append(place)
    told = [f"{_where(at)}: {problem}" for problem, at in places.items()]
    return told[:most] + [f"and {len(told) - most} more"] * (len(told) > most)


def _where(places: Sequence[str]) -> str:
    more = len(places) - 1
    return places[0] + (f" and {more:,} more line{'s' * (more > 1)}" if more else "")
