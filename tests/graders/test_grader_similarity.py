"""Similarities against published values and other implementations."""

from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from preftune.graders.similarity import METRICS, fuzzy_match, gleu, meteor

SENTENCES = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat"]), max_size=12)


class NoWords:
    """A thesaurus without an entry, and a stemmer that cuts nothing."""

    def synsets(self, _word: str) -> list[Any]:
        return []

    def stem(self, word: str) -> str:
        return word


def test_fuzzy_match_is_the_ratio_that_rapidfuzz_documents() -> None:
    # its read-me: fuzz.ratio("this is a test", "this is a test!") is 96.55171966552734
    assert fuzzy_match("this is a test", "this is a test!") == pytest.approx(0.9655171966552734)


def test_fuzzy_match_by_hand() -> None:
    # "kitten" and "sitting" share "ittn": 2 * 4 / (6 + 7)
    assert fuzzy_match("kitten", "sitting") == pytest.approx(8 / 13)
    assert (fuzzy_match("", ""), fuzzy_match("a", "")) == (1.0, 0.0)


def test_meteor_by_hand() -> None:
    # three equal words in one chunk: 1 - 0.5 / 27
    assert meteor("The cat sat", "the cat sat") == pytest.approx(1 - 0.5 / 27)
    # "sat", then "the cat": two chunks of three matches
    assert meteor("sat the cat", "the cat sat") == pytest.approx(1 - 0.5 * (2 / 3) ** 3)


def test_gleu_by_hand() -> None:
    # runs of "the cat sat on": 10, of "the cat sat": 6, all of them shared
    assert gleu("the cat sat", "the cat sat on") == pytest.approx(0.6)


@examples(max_examples=60)
@given(SENTENCES, SENTENCES)
def test_gleu_and_meteor_equal_nltk(got: list[str], wanted: list[str]) -> None:
    nltk_gleu = import_module("nltk.translate.gleu_score").sentence_gleu
    nltk_meteor = import_module("nltk.translate.meteor_score").single_meteor_score
    text, reference = " ".join(got), " ".join(wanted)
    if got or wanted:
        assert gleu(text, reference) == pytest.approx(nltk_gleu([wanted], got))
    if got and wanted:
        other = nltk_meteor(wanted, got, stemmer=NoWords(), wordnet=NoWords())
        assert meteor(text, reference) == pytest.approx(other)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_highest_for_equal_texts_and_0_for_strangers(metric: str) -> None:
    text = "one two three four five six"
    assert METRICS[metric](text, text) == pytest.approx(1, abs=0.01)
    assert METRICS[metric](text, "zzz qqq") == pytest.approx(0, abs=0.13)


@examples(max_examples=30)
@given(st.text(max_size=40), st.text(max_size=40))
def test_every_metric_stays_between_0_and_1(text: str, reference: str) -> None:
    for metric in METRICS.values():
        assert 0 <= metric(text, reference) <= 1
