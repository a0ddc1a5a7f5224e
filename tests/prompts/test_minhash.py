"""Keys of MinHash bands: equal sets, equal keys; alike sets meet as often as the formula says."""

import numpy as np
import pytest
from datasketch import MinHash

from preftune.prompts.minhash import band_keys
from preftune.stats.intervals import wilson

BANDS, ROWS = 4, 3


def keys(*sets: list[int]) -> list[list[int]]:
    runs = np.array([one for members in sets for one in members], dtype=np.uint64)
    starts = np.cumsum([0, *map(len, sets[:-1])])
    return band_keys(runs, starts, bands=BANDS, rows=ROWS).tolist()  # type: ignore[no-any-return]


def test_order_and_repeats_and_neighbours_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(2**64, size=9, dtype=np.uint64).tolist() for _ in range(3))
    found = keys(a, b, [*a[::-1], a[0]], c)
    assert found[0] == found[2]
    assert len({tuple(row) for row in found}) == 3
    assert keys(b) == [found[1]]


def test_sets_meet_as_often_as_datasketch_has_them_meet_and_the_formula_says() -> None:
    # Jaccard 0.6: 6 of 10 in both; chance 1 - (1 - .6^3)^4 = .622
    rng = np.random.default_rng(0)
    trials = rng.integers(2**64, size=(4000, 10), dtype=np.uint64)
    pairs = [half for row in trials.tolist() for half in (row[:8], [*row[:6], *row[8:]])]
    found = keys(*pairs)
    met = sum(any(map(int.__eq__, *found[at : at + 2])) for at in range(0, len(found), 2))
    expected = 1 - (1 - 0.6**ROWS) ** BANDS
    bounds = wilson(met, 4000, level=0.999)
    assert bounds.low < expected < bounds.high
    theirs = [
        [m.hashvalues[b * ROWS : (b + 1) * ROWS].tobytes() for b in range(BANDS)]
        for m in MinHash.generator(pairs[:2000], num_perm=BANDS * ROWS, hashfunc=lambda x: x >> 32)
    ]
    library = sum(any(map(bytes.__eq__, *theirs[at : at + 2])) for at in range(0, 2000, 2))
    assert library / 1000 == pytest.approx(met / 4000, abs=0.06)


def test_no_sets_have_no_keys() -> None:
    empty = np.zeros(0, dtype=np.uint64)
    assert band_keys(empty, np.zeros(0, dtype=np.int64), bands=4, rows=3).shape == (0, 4)
