"""Answers whose strict verdict can no longer change: generating on is a waste where only strict verdicts are asked for.

    stop = stops(prompts)[0]
    stop("The river, ")  # True under no_comma: False is the verdict on this text and on whatever it becomes

The rules of each instruction type are in objectives.decided_rules. Of an answer that stops, the loose verdicts are not
known, nor the strict ones on instructions that were still open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from objectives.decided_rules import UNDECIDABLE, rule_of
from objectives.score import Prompt

__all__ = ["UNDECIDABLE", "Decider", "followed", "stops"]


class Decider:
    """Which instructions of a prompt have a strict verdict that no continuation of an answer can change.

    Stateless: every call looks at the whole text. Instructions of the types in UNDECIDABLE, and those whose kwargs
    leave something to lm-eval's dice, are never decided.
    """

    def __init__(self, prompt: Prompt) -> None:
        pairs = zip(prompt.instruction_id_list, prompt.kwargs, strict=True)
        self._rules = tuple(rule_of(name, kwargs) for name, kwargs in pairs)
        self._can_be_followed = all(True in rule.outcomes for rule in self._rules)
        self._breakable = tuple(rule for rule in self._rules if False in rule.outcomes)

    def __call__(self, text: str) -> tuple[bool | None, ...]:
        """For each instruction the checker's verdict on `text` and on every continuation of it; None: not decided."""
        if not text.strip():  # follows nothing as it stands, whatever it may become
            return (None,) * len(self._rules)
        return tuple(rule.decide(text) for rule in self._rules)

    def stops(self, text: str) -> bool:
        """Whether the verdict on the whole prompt is decided: `followed(self(text)) is not None`, found with less."""
        if self._can_be_followed:
            return followed(self(text)) is not None
        return bool(text.strip()) and any(rule.decide(text) is False for rule in self._breakable)


def followed(verdicts: Sequence[bool | None]) -> bool | None:
    """The verdict on the whole prompt: False if any instruction's is, True if all are, None while it is open."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def stops(prompts: Sequence[Prompt]) -> list[Callable[[str], bool]]:
    """For each prompt whether an answer to it may stop at a text: its strict verdict can no longer change."""
    return [Decider(prompt).stops for prompt in prompts]
