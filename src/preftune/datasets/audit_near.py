"""Texts that are nearly the same: found by MinHash, kept only where the true overlap is enough."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.audit_words import Ids

NEAR = 0.8  # of all runs of three words, in both
PERMUTATIONS = 60
BANDS, ROWS = 12, 5  # texts that share .8 of their runs are found in 99.1 % of the cases, .9 always
MOST = 100  # candidates of one text that are checked, the latest ones
SPREAD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # odd numbers: one for each place of a run
FITS = 0xFFFFFFFF

Shingles = NDArray[np.int64]
"""The hashed runs of three words of a text, sorted, each once."""


def shingles(ids: Ids) -> Shingles:
    """Return the runs of three words of a text, given as numbers; a shorter text is one run."""
    padded = np.concatenate([ids, np.full(max(0, len(SPREAD) - len(ids)), -1)])
    count = len(padded) - len(SPREAD) + 1
    runs = sum((padded[at : at + count] + 1) * odd & FITS for at, odd in enumerate(SPREAD))
    return np.unique(np.asarray(runs) & FITS)


def overlap(one: Shingles, other: Shingles) -> float:
    """Return the share of all runs that both have (Jaccard): 1 for equal sets."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def near_couples(
    texts: Sequence[Shingles], others: Sequence[Shingles] | None = None
) -> Iterator[tuple[int, int]]:
    """Yield every (place, place) of two texts that share .8 of their runs of three words.

    Without `others` both places are in `texts`, the earlier one first; with them the second is in
    `others`. Candidates come from MinHash over bands; each is checked on the sets themselves, so
    none is wrong, and at an overlap of exactly .8 one in a hundred may be missed. Of a crowd of
    look-alikes each is checked against a hundred others, so that time stays in bounds.

    Source: Broder 1997, On the resemblance and containment of documents.
    """
    index: dict[tuple[int, bytes], list[int]] = {}
    pool = texts if others is None else others
    if others is not None:
        for place, bands in enumerate(_bands(others)):
            for band in bands:
                index.setdefault(band, []).append(place)
    for place, bands in enumerate(_bands(texts)):
        candidates = {found for band in bands for found in index.get(band, ())[-MOST:]}
        for found in sorted(candidates)[-MOST:]:
            if overlap(texts[place], pool[found]) >= NEAR:
                yield (place, found) if others is not None else (found, place)
        if others is None:
            for band in bands:
                index.setdefault(band, []).append(place)


def _bands(texts: Iterable[Shingles]) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the bands of each text's MinHash; two texts that share one are candidates."""
    from datasketch import MinHash

    hashed = (text.tolist() for text in texts)
    for made in MinHash.generator(hashed, num_perm=PERMUTATIONS, hashfunc=int):
        values = made.hashvalues
        yield [(band, values[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
