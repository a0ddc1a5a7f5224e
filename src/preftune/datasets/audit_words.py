"""The words of many texts as numbers, so that each text is taken apart just once."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from preftune.datasets.checks import WORD

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Numbers the words of texts in order of first appearance, case aside, and remembers both."""

    numbers: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Ids] = field(default_factory=dict)

    def ids(self, text: str) -> Ids:
        """Return the numbers of the words of a text [T]; a Chinese character is a word."""
        found = self.seen.get(text)
        if found is None:
            known = self.numbers
            words = [known.setdefault(word, len(known)) for word in WORD.findall(text.casefold())]
            found = self.seen[text] = np.array(words, dtype=np.int64)
        return found
