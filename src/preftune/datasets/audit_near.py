"""Texts that are nearly the same: found by MinHash, kept only where the true overlap is enough."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.audit_words import Ids
from preftune.prompts.minhash import Hashes, band_keys

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
        found += _sets(*_runs(texts[begin : begin + AT_ONCE]))
    return found


def unions(texts: Sequence[tuple[Ids, Ids]]) -> list[Shingles]:
    """Return the runs of three words that either text of each two has."""
    found: list[Shingles] = []
    for begin in range(0, len(texts), AT_ONCE):
        runs, sizes = _runs([text for two in texts[begin : begin + AT_ONCE] for text in two])
        found += _sets(runs, [a + b for a, b in zip(sizes[::2], sizes[1::2], strict=True)])
    return found


def _runs(texts: Sequence[Ids]) -> tuple[Shingles, list[int]]:
    """Return the runs of all texts, one text behind the other, and how many each has."""
    padded = [ids if len(ids) >= len(SPREAD) else _padded(ids) for ids in texts]
    numbers = np.concatenate(padded) + 1
    count = len(numbers) - len(SPREAD) + 1
    runs = sum(numbers[at : at + count] * odd & FITS for at, odd in enumerate(SPREAD))
    ends = np.cumsum([len(text) for text in padded])
    inside = np.ones(len(numbers), dtype=bool)  # where a run begins that its text can hold
    for before_end in range(1, len(SPREAD)):
        inside[ends - before_end] = False
    kept = (np.asarray(runs) & FITS)[inside[:count]]
    return kept, [len(text) - len(SPREAD) + 1 for text in padded]


def _padded(ids: Ids) -> Ids:
    """Return a short text with blanks behind it, so that it is one run."""
    return np.append(ids, [-1] * (len(SPREAD) - len(ids))).astype(np.int64)


def _sets(values: Shingles, sizes: Sequence[int]) -> list[Shingles]:
    """Return the values of each set, sorted, each once; the sets stand one behind the other."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    coded = np.sort(owner << BITS | values)
    coded = coded[np.diff(coded, prepend=-1) != 0]
    ends = np.searchsorted(coded, np.arange(1, len(sizes)) << BITS)
    return np.split(coded & FITS, ends)


def overlap(one: Shingles, other: Shingles) -> float:
    """Return the share of all runs that both have (Jaccard): 1 for equal sets."""
    runs = np.concatenate((one, other))
    runs.sort(kind="stable")  # which merges what is in order already
    both = int(np.count_nonzero(runs[1:] == runs[:-1]))
    return both / (len(runs) - both)


def is_near(one: Shingles, other: Shingles) -> bool:
    """Whether two texts share .8 of their runs; where sizes differ by more, nothing is compared."""
    few, many = sorted((len(one), len(other)))
    return few / many >= NEAR and overlap(one, other) >= NEAR


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
    index: dict[int, list[int]] = {}
    pool = texts if others is None else others
    shared = _shared([*texts, *(others or ())])
    for place, bands in enumerate(shared[len(texts) :]):
        _put(index, bands, place)
    for place, bands in enumerate(shared[: len(texts)]):
        candidates = {found for band in bands for found in index.get(band, ())[-MOST:]}
        for found in sorted(candidates)[-MOST:]:
            if is_near(texts[place], pool[found]):
                yield (place, found) if others is not None else (found, place)
        if others is None:
            _put(index, bands, place)


def _put(index: dict[int, list[int]], bands: Iterable[int], place: int) -> None:
    for band in bands:
        index.setdefault(band, []).append(place)


def _shared(texts: Sequence[Shingles]) -> list[list[int]]:
    """Return for each text numbers of its keys: two texts that share one are candidates.

    A key that no other text has is left out, so most texts have none.
    """
    found: list[list[int]] = [[] for _ in texts]
    if not texts:
        return found
    parts = [_keys(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)]
    for band, keys in enumerate(np.concatenate(parts).T):
        _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
        (places,) = np.nonzero(counts[numbers] > 1)
        for place, number in zip(places.tolist(), numbers[places].tolist(), strict=True):
            found[place].append(band * len(texts) + number)
    return found


def _keys(texts: Sequence[Shingles]) -> Hashes:
    starts = np.cumsum([0, *map(len, texts[:-1])])
    elements = np.concatenate(texts).astype(np.uint64)
    return band_keys(elements, starts, bands=BANDS, rows=ROWS)
