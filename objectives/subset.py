"""Which prompts, in which order: the half that a search sees, the half that it never sees, and fixed subsets.

Everything here is a pure function of the set of prompts: the order in which they come, the machine and the run make no
difference. Prompts that differ only in case and white space count as the same text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from objectives.score import ObjectiveError, Prompt

Group = tuple[Prompt, ...]  # prompts of one text, ordered by key


def halves(prompts: Sequence[Prompt]) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Split into (search, sealed): no text is in both, and each instruction type is in both about equally often.

    Each half comes in the order of `take`. Raises ObjectiveError where there are fewer than two different texts.
    """
    groups = _groups(prompts)
    if len(groups) < 2:
        texts = "one text" if groups else "no text"
        count = f"{len(prompts)} prompt{'s' * (len(prompts) != 1)}"
        raise ObjectiveError(
            f"{count} with {texts} cannot be halved, since both halves need one of their own; give more"
        )
    search, sealed = _halve(groups)
    return _spread(search), _spread(sealed)


def take(prompts: Sequence[Prompt], n: int) -> tuple[Prompt, ...]:
    """The fixed subset of size `n`, in its fixed order. A smaller subset is the beginning of a larger one, and each has
    about the same mixture of instruction types as the whole. Raises ObjectiveError unless 1 <= n <= len(prompts).
    """
    if not 1 <= n <= len(prompts):
        raise ObjectiveError(f"a subset of {n} prompts was asked for; choose from 1 to {len(prompts)}, which there are")
    return _spread(_groups(prompts))[:n]


def rest(prompts: Sequence[Prompt], n: int) -> tuple[Prompt, ...]:
    """What `take` leaves out, in an order of the same kind."""
    taken = {prompt.key for prompt in take(prompts, n)}
    return _spread(_groups(prompt for prompt in prompts if prompt.key not in taken))


def _groups(prompts: Iterable[Prompt]) -> list[Group]:
    """The prompts by text."""
    by_hash: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_hash.setdefault(_hash(prompt.prompt), []).append(prompt)
    return [tuple(sorted(group, key=lambda p: (p.key, p.model_dump_json()))) for group in by_hash.values()]


def _hash(text: str) -> str:
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).hexdigest()


def _halve(groups: Sequence[Group], depth: int = 0) -> tuple[list[Group], list[Group]]:
    """Deal the groups out, rare types first, each to the half that has less of its types; where they have the same, to
    the smaller half; where they are as large, as a coin says, so that neither half is favoured."""
    totals = Counter(_types(groups))
    sides: tuple[list[Group], list[Group]] = ([], [])
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for group in sorted(groups, key=lambda g: (min(totals[name] for name in _types([g])), _hash(g[0].prompt))):
        types = list(_types([group]))
        surplus = sum((counts[0][name] - counts[1][name]) / totals[name] for name in types)
        larger = sum(map(len, sides[0])) - sum(map(len, sides[1]))
        side = int((surplus, larger, _coin(group, depth)) > (0, 0, 0))
        sides[side].append(group)
        counts[side].update(types)
    return sides


def _coin(group: Group, depth: int) -> int:
    """-1 or 1 by the hash of the text, thrown anew at each depth of halving."""
    digits = _hash(group[0].prompt)
    return 1 if int(digits[-1 - depth % len(digits)], 16) % 2 else -1


def _spread(groups: Sequence[Group], depth: int = 1) -> tuple[Prompt, ...]:
    """An order whose beginnings are small copies of the whole: a first half, ordered likewise, then the second."""
    if len(groups) <= 1:
        return tuple(chain.from_iterable(groups))
    first, second = _halve(groups, depth)
    return _spread(first, depth + 1) + _spread(second, depth + 1)


def _types(groups: Iterable[Group]) -> Iterable[str]:
    return (name for group in groups for prompt in group for name in prompt.instruction_id_list)
