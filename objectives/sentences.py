"""nltk's sentence splitter, Punkt: with its trained model where that is installed, else with a list of its own."""

from __future__ import annotations

import functools

import nltk.data
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTokenizer

_TRAINED = "tokenizers/punkt_tab/english/"
_ABBREVIATIONS = (
    "mr mrs ms dr prof rev hon st sr jr gen col capt lt sgt sen rep gov inc ltd co corp dept est ave blvd "
    "e.g i.e etc vs cf al approx no vol fig p pp ed a.m p.m u.s u.k ph.d b.c a.d "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)


def punkt_available() -> bool:
    """Whether nltk's trained English sentence splitter is installed and whole. Looks on disk only."""
    return _trained() is not None


def splitter() -> PunktSentenceTokenizer:
    """The splitter that the checkers use here: the trained one where it is installed, else `fallback()`."""
    return _trained() or fallback()


@functools.cache
def fallback() -> PunktSentenceTokenizer:
    """Punkt without its trained model: it knows the abbreviations, and no word that often begins a sentence."""
    parameters = PunktParameters()
    parameters.abbrev_types.update(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters)


def _trained() -> PunktSentenceTokenizer | None:
    try:
        return _load(str(nltk.data.find(_TRAINED)))
    except (LookupError, OSError):
        return None


@functools.cache
def _load(folder: str) -> PunktSentenceTokenizer:
    """The trained splitter, read once from the folder where nltk finds it; what fails is tried again."""
    return PunktTokenizer("english")
