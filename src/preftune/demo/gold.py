"""The gold tone: how warm a reply truly is. Reaches training only through the raters' labels.

It knows nothing of facts, as the checker knows nothing of tone.
"""

from preftune.demo.grammar import BLUNT, CLOSES, FILLERS, OPENERS, REASSURANCES

FREE_LENGTH_TOKENS = 50
SENTENCE_ENDS = (".", "!", "?")


def gold_tone(text: str) -> float:
    """Return the tone of a reply, at most 3; a bare core is 0.

    +1 for an opener, a reassurance and a close each; -.5 for every warm line beyond the first of
    its sort, -1 per blunt line, -.4 per filler, -.05 per word above 50. So repetition and padding
    lose.
    """
    words = text.split()
    said = _sentences(words)
    tone = -1.0 * _count(said, BLUNT) - 0.4 * _count(said, FILLERS)
    for warm in (OPENERS, REASSURANCES, CLOSES):
        found = _count(said, warm)
        tone += min(found, 1) - 0.5 * max(found - 1, 0)
    return tone - 0.05 * max(len(words) - FREE_LENGTH_TOKENS, 0)


def _sentences(words: list[str]) -> list[str]:
    found: list[list[str]] = [[]]
    for word in words:
        found[-1].append(word)
        if word in SENTENCE_ENDS:
            found.append([])
    return [" ".join(sentence) for sentence in found]


def _count(said: list[str], lines: tuple[str, ...]) -> int:
    return sum(sentence in lines for sentence in said)
