"""When two prompts are the same, exactly or nearly: stated normalisation, MinHash, true overlap."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from preftune.errors import SettingsError
from preftune.types import Message, Prompt, content_id

PERMUTATIONS = 128
RECALL = 0.99  # chance that a prompt exactly at the threshold is found
SHINGLE = 3  # words
_REMEMBERED = 4096  # prompts whose runs of words are kept at hand

Shingles = frozenset[str]


def content_key(prompt: Prompt) -> str:
    """Return a key equal for prompts that differ only in case, white space and Unicode form.

    Each text is brought to NFKC, case-folded, its runs of white space made one blank. Roles, order
    of turns, tool calls and tools count as they are.
    """
    turns = [(m.role, normal(m.content), m.tool_calls, m.name) for m in prompt.messages]
    return content_id("n", turns, prompt.tools)


def normal(text: str) -> str:
    """Return a text in NFKC, case-folded, every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> Shingles:
    """Return the runs of three words of a normal text; a shorter text is one run."""
    words = text.split()
    last = max(1, len(words) - SHINGLE + 1)
    return frozenset(" ".join(words[place : place + SHINGLE]) for place in range(last))


def overlap(one: Shingles, other: Shingles) -> float:
    """Return the Jaccard index, the share of all runs that both have: 1 for equal sets."""
    return len(one & other) / len(one | other)


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """What of a prompt is compared: its turns, its last turn, and what must be equal."""

    context: str  # system turns, tools and roles; near duplicates have the same
    whole: Shingles
    last: Shingles

    def to(self, other: "Likeness") -> float:
        """Return how alike two prompts are, 0..1: the lesser of all turns and of the last turn.

        So neither a long system prompt nor a long history makes two questions the same.
        """
        if self.context != other.context:
            return 0.0
        return min(overlap(self.whole, other.whole), overlap(self.last, other.last))


def likeness(prompt: Prompt) -> Likeness:
    """Return what two prompts are compared by."""
    turns = [m for m in prompt.messages if m.role != "system"]
    system = [normal(m.content) for m in prompt.messages if m.role == "system"]
    texts = [_words(m) for m in turns]
    return Likeness(
        context=content_id("c", [m.role for m in turns], system, prompt.tools),
        whole=shingles(" ".join(texts)),
        last=shingles(texts[-1] if texts else ""),
    )


class NearIndex:
    """Finds the prompts that were added and are like another: MinHash bands, then true overlap.

    No answer is wrong, since each is checked on the texts; one prompt in a hundred that is exactly
    at the threshold may be missed, fewer above it.

    Source: Broder 1997, On the resemblance and containment of documents.
    """

    def __init__(self, near: float) -> None:
        from datasketch import MinHash, MinHashLSH

        if not 0 < near <= 1:
            raise SettingsError(f"--near {near}. Use a number above 0 and at most 1, such as 0.8.")
        self._near = near
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands_and_rows(near))
        self._empty = MinHash(num_perm=PERMUTATIONS)
        self._added: list[Prompt] = []
        self._likeness = lru_cache(_REMEMBERED)(lambda place: likeness(self._added[place]))

    def nearest_or_add(self, prompt: Prompt) -> tuple[Prompt, float] | None:
        """Return (prompt, likeness) of the most alike that is near, the first added of equals.

        When there is none, add this one and return None.
        """
        one = likeness(prompt)
        hashed = self._empty.copy()
        hashed.update_batch([run.encode() for run in one.whole])
        found = [(one.to(self._likeness(place)), -place) for place in self._index.query(hashed)]
        alike, place = max(found, default=(0.0, 0))
        if alike >= self._near:
            return self._added[-place], alike
        self._index.insert(len(self._added), hashed)
        self._added.append(prompt)
        return None


def bands_and_rows(near: float) -> tuple[int, int]:
    """Return the most selective (bands, rows) that still find `RECALL` of what is just near.

    A prompt of likeness s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    shapes = [(PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1)]
    return next((b, r) for b, r in shapes if 1 - (1 - near**r) ** b >= RECALL or r == 1)


def _words(message: Message) -> str:
    calls = (f"{call.name} {call.arguments}" for call in message.tool_calls)
    return normal(" ".join((message.content, *calls)))
