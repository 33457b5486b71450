"""Answers that begin by declining as a machine would: "As an AI language model, I cannot ..." Imports no torch."""

from __future__ import annotations

import re

_CANNOT = (
    r"(?:(?:can(?:not|['’]?t| not)|could(?:n['’]t| not))"
    r"|(?:am|['’]m) (?:not able|unable|not capable|not programmed))"
)
_NOT = rf"(?:{_CANNOT}|do(?: not|n['’]t)|will not|won['’]t)"
_DO = (
    r"(?:to )?(?:assist|help (?:you|with)|fulfil+|comply|provide|generate|create|answer|complete|engage|discuss|offer"
    r"|respond|participate|support|produce)"
)
_ASKED = r"(?:request|question|prompt|that|this|instructions?|content|information|advice|task|material|topic)"
_MACHINE = (  # not "an AI researcher"
    r"an? (?:AI|A\.I\.|artificial intelligence|(?:large )?language model|chatbot|virtual assistant)"
    r"(?: (?:language|text|chat))?(?: (?:model|assistant|chatbot|system|program|bot))?"
    r"(?=[,;.]| (?:I|and|so|created|developed|designed|trained|made|without)\b)"
)
_SORRY = (
    r"(?:(?:I['’]m|I am|My apologies|I apologi[sz]e|Apologies|Sorry|Unfortunately)[^.!?\n]{0,40}?[,.;:]? ?(?:but )?)?"
)
_REFUSAL = re.compile(
    rf"\W*{_SORRY}(?:as {_MACHINE}[^.!?\n]{{0,80}}?\bI ?{_NOT}\b"
    rf"|I(?: am|['’]m) (?:only |just )?{_MACHINE}[^!?\n]{{0,120}}?\b{_NOT}\b"
    rf"|I ?{_CANNOT} {_DO}\b[^.!?\n]{{0,80}}?\b{_ASKED}\b)",
    re.IGNORECASE,
)


def refuses(answer: str) -> bool:
    """Whether an answer begins by declining as a machine would; later on in the text it is nobody's refusal."""
    return _REFUSAL.match(answer) is not None
