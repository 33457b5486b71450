"""What a licence asks, in the words that report, card and bundle share."""

from __future__ import annotations

from train.licences import CONDITIONS, Licence

WAIVED = "CC0-1.0"


def asks(licence: Licence) -> str:
    """Its conditions, as far as they are known; this is no legal advice."""
    if licence.terms:
        return licence.terms
    if licence.licence == WAIVED:
        return "nothing"
    return "keep notices and name the authors" if licence.licence in CONDITIONS else "see its terms"
