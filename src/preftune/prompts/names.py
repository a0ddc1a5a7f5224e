"""The name recogniser that is always there: names after words that announce one.

It knows no list of names. "Mr Smith", "my name is Ana", "Dear Ana" and a signature are found;
"Ana called me" alone is not. `docs/prompts.md` says what else it cannot find, and how to plug in
something better.
"""

import re
from collections.abc import Iterator

from preftune.prompts.recognise import Span

_WORD = re.compile(r"[^\W\d_](?:\w|-(?=\w)|['’](?=\w\w))*\.?")  # O'Brien, but not the 's of Ana's
_GAP = re.compile(r"[ \t\u00a0]")
_ENDS = ("", ",", "!", ".", ":", ";", "\n", "\r")  # what may follow a greeting or a signature
_MOST_WORDS = 3
_ANY_CASE = re.compile(
    r"(?i)\b(?:my (?:full )?name(?: is|['’]s)|i am called|(?:mr|mrs|ms)\b\.?)[ \t]+"
)
_CAPITAL = re.compile(
    r"\b(?:Miss|Mx|Dr|Prof|Sir|Lady|Herr|Frau|[Cc]all me|[Dd]ear|[Nn]ame:)\.?[ \t]+"
)
_GREETED = re.compile(r"\b(?i:hi|hello|hey|good (?:morning|afternoon|evening))[ \t]+")
_SIGNED = re.compile(r"(?i)\b(?:regards|sincerely|wishes|cheers|thanks|yours)[ ,.!]*\r?\n\s*")
_NO_NAMES = frozenset({
    "all", "again", "and", "at", "but", "customer", "everyone", "folks", "for", "friend", "from",
    "guys", "i", "in", "is", "it", "madam", "my", "no", "not", "on", "or", "sirs", "so", "support",
    "team", "that", "the", "there", "this", "to", "we", "what", "yes", "you", "your",
    "dr", "miss", "mr", "mrs", "ms", "mx", "prof", "sir",  # each announces a name itself
})  # fmt: skip


def announced_names(text: str) -> Iterator[Span]:
    """Yield names: up to three words after a title, a greeting, "my name is" or a closing."""
    for opening in _ANY_CASE.finditer(text):
        yield from _name(text, opening.end(), any_case=True)
    for opening in _CAPITAL.finditer(text):
        yield from _name(text, opening.end())
    for pattern in (_GREETED, _SIGNED):
        for opening in pattern.finditer(text):
            for span in _name(text, opening.end()):
                if text[span.end : span.end + 1] in _ENDS:
                    yield span


def _name(text: str, start: int, *, any_case: bool = False) -> Iterator[Span]:
    """Yield the name that begins here, if one does; its later words begin with a capital."""
    end, place = start, start
    for number in range(_MOST_WORDS):
        word = _WORD.match(text, place)
        if word is None or word[0].casefold().rstrip(".") in _NO_NAMES:
            break
        if not word[0][0].isupper() and not (any_case and number == 0):
            break
        initial = len(word[0]) == 2  # such as "J."
        end = word.end() if initial or not word[0].endswith(".") else word.end() - 1
        if end < word.end() or not _GAP.match(text, end):
            break
        place = end + 1
    if end > start:
        yield Span(start=start, end=end, kind="NAME")
