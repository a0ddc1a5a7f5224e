"""How alike two texts are, 0 to 1, by the measures that `text_similarity` graders name.

BLEU is sacrebleu's and ROUGE equals the rouge-score package (`comparisons.rules`); the others are
small enough to stand here.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from preftune.comparisons.rules import bleu, longest_common_subsequence, rouge_l, rouge_n

TOKEN = re.compile(r"\w+|[^\w\s]")
LONGEST_RUN = 4  # words, of GLEU
RECALL_WEIGHT, FRAGMENT_POWER, FRAGMENT_WEIGHT = 0.9, 3.0, 0.5  # METEOR's alpha, beta, gamma


def fuzzy_match(first: str, second: str) -> float:
    """Return 2 × longest common subsequence of characters / both lengths; 1 for two empty texts.

    The same as rapidfuzz's `fuzz.ratio` / 100: "this is a test" against "this is a test!" is
    28 / 29 = 0.9655.
    """
    if not first and not second:
        return 1.0
    return 2 * longest_common_subsequence(first, second) / (len(first) + len(second))


def gleu(text: str, reference: str) -> float:
    """Return the smaller of precision and recall over all runs of 1 to 4 words, case folded.

    Source: Wu et al. 2016, arXiv:1609.08144, section 8.2.
    """
    got, wanted = _runs(_tokens(text)), _runs(_tokens(reference))
    most = max(got.total(), wanted.total())
    return (got & wanted).total() / most if most else 0.0


def meteor(text: str, reference: str) -> float:
    """Return METEOR in its exact form: equal words match, case folded; no stems, no synonyms.

    A sentence of m words against itself gives 1 - 0.5 / m³: one chunk of m matches.

    Source: Banerjee and Lavie 2005; weights of Lavie and Agarwal 2007 (0.9, 3, 0.5).
    """
    got, wanted = _tokens(text), _tokens(reference)
    matches = _aligned(got, wanted)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(got), len(matches) / len(wanted)
    mean = precision * recall / (RECALL_WEIGHT * precision + (1 - RECALL_WEIGHT) * recall)
    pieces = 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in pairwise(matches))
    penalty = FRAGMENT_WEIGHT * math.pow(pieces / len(matches), FRAGMENT_POWER)
    return mean * (1 - penalty)


def _rouge(n: int) -> Callable[[str, str], float]:
    return lambda text, reference: rouge_n(text, reference, n)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": lambda text, reference: min(bleu(text, [reference]) / 100, 1.0),
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": _rouge(n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(text.lower())


def _runs(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[at : at + n])
        for n in range(1, LONGEST_RUN + 1)
        for at in range(len(words) - n + 1)
    )


def _aligned(got: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Return places of equal words in both, each used once, taken from the ends backwards."""
    places: dict[str, list[int]] = {}
    for at, word in enumerate(wanted):
        places.setdefault(word, []).append(at)
    found = [(at, places[got[at]].pop()) for at in reversed(range(len(got))) if places.get(got[at])]
    return found[::-1]
