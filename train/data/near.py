"""Texts that are nearly the same: MinHash with locality-sensitive hashing finds candidates, exact Jaccard decides.

A text is the set of its sequences of three words; two are near where the sets share at least `similarity` of their
union. 64 minima in 16 bands of 4 find a pair of similarity 0.8 with a probability of 0.9998, one of 0.7 with 0.988
(1 - (1 - s^4)^16; Leskovec et al., Mining of Massive Datasets, chapter 3). Nothing is random: the hash functions are
fixed, and do not depend on the process.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

WORDS = 3  # of a sequence
BANDS, ROWS = 16, 4
SLACK = 0.25  # by which 64 minima may under-estimate a similarity: four standard deviations

_MULTIPLIER = 0x9E3779B97F4A7C15


def near_duplicates(texts: Sequence[str], similarity: float) -> list[bool]:
    """Of each text, whether an earlier one that is no such duplicate itself is near it."""
    import numpy as np

    vocabulary = _Vocabulary()
    sets = [np.unique(vocabulary.sequences(text)) for text in texts]
    signatures = _signatures(sets)
    bands = _bands(signatures)
    buckets: list[dict[int, list[int]]] = [{} for _ in range(BANDS)]
    near = []
    for index, keys in enumerate(bands.tolist()):
        there = {other for bucket, key in zip(buckets, keys, strict=True) for other in bucket.get(key, ())}
        likely = _likely(signatures, index, sorted(there), similarity) if there else ()
        near.append(any(_jaccard(sets[other], sets[index]) >= similarity for other in likely))
        if not near[-1]:
            for bucket, key in zip(buckets, keys, strict=True):
                bucket.setdefault(key, []).append(index)
    return near


class _Vocabulary(dict[str, int]):
    """A number for each word, the same in every process."""

    def __missing__(self, word: str) -> int:
        self[word] = number = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return number

    def sequences(self, text: str) -> Any:
        """A hash of each sequence of WORDS words; of a shorter text, one of the whole."""
        import numpy as np

        words = np.array([self[word] for word in re.findall(r"\w+", text.casefold())] or [0], dtype=np.uint64)
        width = min(WORDS, len(words))
        count = len(words) - width + 1
        mixed = np.full(count, width, dtype=np.uint64)
        for offset in range(width):
            mixed = (mixed ^ words[offset : offset + count]) * np.uint64(_MULTIPLIER)
            mixed ^= mixed >> np.uint64(29)
        return mixed


def _signatures(sets: Sequence[Any], chunk: int = 2048) -> numpy.ndarray[Any, Any]:
    """The minima of each set under BANDS * ROWS hash functions; shape (texts, functions)."""
    import numpy as np

    factors = [(_constant(f"factor {n}") | 1, _constant(f"term {n}")) for n in range(BANDS * ROWS)]
    found = np.empty((len(sets), len(factors)), dtype=np.uint32)
    for first in range(0, len(sets), chunk):
        some = sets[first : first + chunk]
        flat = np.concatenate(some)
        starts = np.cumsum([0, *map(len, some[:-1])])
        for column, (factor, term) in enumerate(factors):
            hashed = ((flat * np.uint64(factor) + np.uint64(term)) >> np.uint64(32)).astype(np.uint32)
            found[first : first + len(some), column] = np.minimum.reduceat(hashed, starts)
    return found


def _likely(signatures: Any, index: int, candidates: list[int], similarity: float) -> list[int]:
    """The candidates whose signature does not rule the similarity out."""
    agree = (signatures[candidates] == signatures[index]).mean(axis=1)
    return [other for other, share in zip(candidates, agree.tolist(), strict=True) if share >= similarity - SLACK]


def _constant(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _bands(signatures: Any) -> numpy.ndarray[Any, Any]:
    """One number for each band of a signature; shape (texts, BANDS)."""
    import numpy as np

    parts = signatures.reshape(len(signatures), BANDS, ROWS).astype(np.uint64)
    mixed = np.zeros((len(signatures), BANDS), dtype=np.uint64)
    for row in range(ROWS):
        mixed = (mixed ^ parts[:, :, row]) * np.uint64(_MULTIPLIER)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _jaccard(left: Any, right: Any) -> float:
    import numpy as np

    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)
