"""The words of many texts as numbers, so that each text is taken apart just once."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.checks import words_of

Ids = NDArray[np.int64]


def _counting() -> dict[str, int]:
    """Return a dictionary that gives each new word the next number."""
    return defaultdict(count().__next__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Numbers the words of texts in order of first appearance, case aside, and remembers both."""

    numbers: dict[str, int] = field(default_factory=_counting)
    seen: dict[str, Ids] = field(default_factory=dict)

    def ids(self, text: str) -> Ids:
        """Return the numbers of the words of a text [T]; a Chinese character is a word."""
        found = self.seen.get(text)
        if found is None:
            words = words_of(text)
            numbered = map(self.numbers.__getitem__, words)
            found = self.seen[text] = np.fromiter(numbered, dtype=np.int64, count=len(words))
        return found
