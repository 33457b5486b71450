"""nltk's sentence splitter, Punkt: with its trained model where that is installed, else with a list of its own.

Imports nltk, which takes a second, only once it is used; no torch.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

SENTENCES = "length_constraints:number_sentences"
CAPITAL_WORDS = "change_case:capital_word_frequency"
NEED_PUNKT = frozenset({SENTENCES, CAPITAL_WORDS})  # the types of instruction that split an answer into sentences

_PACKAGE = "punkt_tab"
_TRAINED = f"tokenizers/{_PACKAGE}/english/"
_ABBREVIATIONS = (
    "mr mrs ms dr prof rev hon st sr jr gen col capt lt sgt sen rep gov inc ltd co corp dept est ave blvd "
    "e.g i.e etc vs cf al approx no vol fig p pp ed a.m p.m u.s u.k ph.d b.c a.d "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)


def punkt_available() -> bool:
    """Whether nltk's trained English sentence splitter is installed and whole. Looks on disk only."""
    return _trained() is not None


def fetch_punkt() -> str:
    """Have nltk fetch the trained splitter into the data folder where it looks for it, and return that folder.

    Raises OSError with nltk's reason where that fails, or leaves nothing that can be used.
    """
    from nltk.downloader import Downloader

    server = Downloader()
    folder, said = str(server.default_download_dir()), io.StringIO()
    try:
        server.download(_PACKAGE, folder, quiet=True, force=True, raise_on_error=True, print_error_to=said)
    except ValueError as error:  # what raise_on_error makes of every failure
        raise OSError(" ".join(str(error).split())) from None
    if not punkt_available():
        raise OSError(f"what nltk put into {folder} cannot be used")
    return folder


def splitter() -> PunktSentenceTokenizer:
    """The splitter that the checkers use here: the trained one where it is installed, else `fallback()`."""
    return _trained() or fallback()


@functools.cache
def fallback() -> PunktSentenceTokenizer:
    """Punkt without its trained model: it knows the abbreviations, and no word that often begins a sentence."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types.update(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters)


def _trained() -> PunktSentenceTokenizer | None:
    import nltk.data

    try:
        return _load(str(nltk.data.find(_TRAINED)))
    except (LookupError, OSError):
        return None


@functools.cache
def _load(folder: str) -> PunktSentenceTokenizer:
    """The trained splitter, read once from the folder where nltk finds it; what fails is tried again."""
    from nltk.tokenize.punkt import PunktTokenizer

    return PunktTokenizer("english")
