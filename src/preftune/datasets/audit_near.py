"""Texts that are nearly the same: found by MinHash, kept only where the true overlap is enough."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.audit_words import Ids
from preftune.prompts.minhash import band_keys

NEAR = 0.8  # of all runs of three words, in both
BANDS, ROWS = 12, 5  # texts that share .8 of their runs are found in 99.1 % of the cases, .9 always
AT_ONCE = 1000  # texts that are hashed together
MOST = 100  # candidates of one text that are checked, the latest ones
SPREAD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)  # odd numbers: one for each place of a run
BITS = 32
FITS = 2**BITS - 1

Shingles = NDArray[np.int64]
"""The hashed runs of three words of a text, sorted, each once."""


def shingles(ids: Ids) -> Shingles:
    """Return the runs of three words of a text, given as numbers; a shorter text is one run."""
    return shingles_of([ids])[0]


def shingles_of(texts: Sequence[Ids]) -> list[Shingles]:
    """Return the runs of three words of each text; many texts at once take a moment."""
    found: list[Shingles] = []
    for begin in range(0, len(texts), AT_ONCE):
        found += _shingles(texts[begin : begin + AT_ONCE])
    return found


def unions(one: Sequence[Shingles], other: Sequence[Shingles]) -> list[Shingles]:
    """Return the runs that either text of each two has."""
    both = [np.concatenate(two) for two in zip(one, other, strict=True)]
    return _sets(np.concatenate(both), [len(two) for two in both]) if both else []


def _shingles(texts: Sequence[Ids]) -> list[Shingles]:
    short = (np.full(max(0, len(SPREAD) - len(ids)), -1) for ids in texts)
    padded = [
        np.concatenate(two) if len(two[1]) else two[0] for two in zip(texts, short, strict=True)
    ]
    numbers = np.concatenate(padded) + 1
    count = len(numbers) - len(SPREAD) + 1
    runs = sum(numbers[at : at + count] * odd & FITS for at, odd in enumerate(SPREAD))
    ends = np.cumsum([len(text) for text in padded])
    inside = np.ones(len(numbers), dtype=bool)  # where a run begins that its text can hold
    for before_end in range(1, len(SPREAD)):
        inside[ends - before_end] = False
    kept = (np.asarray(runs) & FITS)[inside[:count]]
    return _sets(kept, [len(text) - len(SPREAD) + 1 for text in padded])


def _sets(values: Shingles, sizes: Sequence[int]) -> list[Shingles]:
    """Return the values of each set, sorted, each once; the sets stand one behind the other."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    coded = np.sort(owner << BITS | values)
    coded = coded[np.diff(coded, prepend=-1) != 0]
    ends = np.searchsorted(coded, np.arange(1, len(sizes)) << BITS)
    return np.split(coded & FITS, ends)


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
    index: dict[tuple[int, int], list[int]] = {}
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


def _bands(texts: Sequence[Shingles]) -> Iterator[list[tuple[int, int]]]:
    """Yield the keys of each text, each with its band; two texts that share one are candidates."""
    for begin in range(0, len(texts), AT_ONCE):
        part = texts[begin : begin + AT_ONCE]
        elements = np.concatenate(part).astype(np.uint64)
        starts = np.cumsum([0, *map(len, part[:-1])])
        for keys in band_keys(elements, starts, bands=BANDS, rows=ROWS).tolist():
            yield list(enumerate(keys))
