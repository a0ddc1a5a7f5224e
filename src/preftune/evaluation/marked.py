"""Two texts beside each other, with marks where they differ."""

import difflib
import re

WORDS = re.compile(r"\s+|\S+")
LONGEST_MARKED = 2000  # words; longer texts are shown without marks

Marked = list[tuple[str, bool]]


def differences(before: str, after: str) -> tuple[Marked, Marked]:
    """Return both texts in pieces, word by word, each with whether the other text lacks it."""
    one, two = WORDS.findall(before), WORDS.findall(after)
    if max(len(one), len(two)) > LONGEST_MARKED:
        return [(before, False)], [(after, False)]
    left: Marked = []
    right: Marked = []
    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    for operation, a, b, c, d in matcher.get_opcodes():
        for pieces, words in ((left, one[a:b]), (right, two[c:d])):
            if words:
                pieces.append(("".join(words), operation != "equal"))
    return left, right
