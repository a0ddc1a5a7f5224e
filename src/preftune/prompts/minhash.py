"""Which texts may be nearly the same, found without comparing each with each: MinHash in bands."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no value of a band is lost
_HIGH_HALF = np.uint64(32)


def band_keys(elements: Hashes, starts: NDArray[np.int64], *, bands: int, rows: int) -> Hashes:
    """Return the keys [N bands] of N sets: alike sets have one of them in common.

    Sets with Jaccard index s share the key of a band with probability s^rows, any key with
    1 - (1 - s^rows)^bands. Equal sets have equal keys; neither the order of a set nor an element
    given twice matters. The permutations are those of the datasketch library.

    Args:
        elements: of all sets, one set behind the other, as numbers.
        starts: where each set begins in `elements`; no set is empty.
        bands: how many keys a set has.
        rows: how many minima make a key; more rows, fewer chance meetings.

    Source: Broder 1997, On the resemblance and containment of documents.
    """
    keys = np.zeros((bands, len(starts)), dtype=np.uint64)
    if not len(starts):
        return keys.T
    factors, terms = _permutations(bands * rows)
    short = (_mixed(elements) >> _HIGH_HALF).astype(np.uint32)
    for place, (factor, term) in enumerate(zip(factors, terms, strict=True)):
        lowest = np.minimum.reduceat(short * factor + term, starts)
        keys[place // rows] = (keys[place // rows] ^ lowest) * _FACTOR
    return keys.T


def _mixed(numbers: Hashes) -> Hashes:
    """Return other numbers, as different as these, in which every bit depends on all bits."""
    for _ in range(2):
        numbers = (numbers ^ (numbers >> _HIGH_HALF)) * _FACTOR
    return numbers ^ (numbers >> _HIGH_HALF)


@lru_cache
def _permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return factors and terms of permutations of all 32-bit numbers, x -> factor * x + term."""
    from datasketch import MinHash

    factors, terms = MinHash(num_perm=count, scheme="affine32").permutations
    return factors, terms
