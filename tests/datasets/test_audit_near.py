"""Near copies: what overlaps is found, what does not is never told."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets.audit_near import Shingles, is_near, near_couples, overlap, shingles
from preftune.datasets.audit_words import Words

WORDS = [f"word{n}" for n in range(60)]
LEXICON = Words()


def runs(text: str) -> Shingles:
    return shingles(LEXICON.ids(text))


def changed(text: str, places: int, rng: random.Random) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), places):
        words[place] = f"new{rng.random()}"
    return " ".join(words)


def test_overlap_by_hand() -> None:
    # runs of three: abc bcd against abc bce: one of three in both
    assert overlap(runs("a b c d"), runs("A b, c e!")) == pytest.approx(1 / 3)
    assert overlap(runs("yes"), runs("Yes.")) == 1.0
    assert overlap(runs("yes"), runs("no")) == 0.0


def test_near_is_four_fifths_exactly_whatever_the_sizes() -> None:
    for size in range(5, 200, 5):
        whole = np.arange(size, dtype=np.int64)
        assert is_near(whole, whole[: size * 4 // 5])
        assert not is_near(whole[: size * 4 // 5 - 1], whole)


@given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(0, 40), min_size=1))
def test_overlap_is_the_jaccard_index(one: set[int], other: set[int]) -> None:
    a, b = (np.array(sorted(values), dtype=np.int64) for values in (one, other))
    index = len(one & other) / len(one | other)
    assert overlap(a, b) == pytest.approx(index)
    assert is_near(a, b) is (index >= 0.8)


def test_a_text_with_one_word_changed_at_its_end_is_found_and_others_are_not() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(200)]
    texts += [f"{text} end" for text in texts[:50]]
    found = set(near_couples([runs(text) for text in texts]))
    assert found == {(place, 200 + place) for place in range(50)}


@given(st.integers(0, 10_000))
def test_every_couple_told_shares_four_fifths_and_few_are_missed(seed: int) -> None:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=40)) for _ in range(6)]
    texts += [changed(text, n, rng) for text in texts for n in (1, 2, 5)]
    hashed = [runs(text) for text in texts]
    told = set(near_couples(hashed))
    sure = {
        (a, b) for b in range(len(texts)) for a in range(b) if overlap(hashed[a], hashed[b]) >= 0.9
    }
    assert all(overlap(hashed[a], hashed[b]) >= 0.8 and a < b for a, b in told)
    assert sure <= told


def test_two_lists_are_compared_with_each_other_alone() -> None:
    mine = [runs("one two three four five six"), runs("seven eight nine ten")]
    theirs = [runs("nothing alike"), runs("one two three four five six")]
    assert list(near_couples([*mine, mine[1]], theirs)) == [(0, 1)]


def test_a_crowd_of_equals_stays_in_bounds() -> None:
    found = list(near_couples([runs("the same old reply to everything")] * 1000))
    assert len(found) <= 100 * 1000
    assert {later for _, later in found} == set(range(1, 1000))
