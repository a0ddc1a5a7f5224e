"""When two prompts are the same, exactly or nearly: stated normalisation, overlap of word runs."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from preftune.prompts.minhash import Hashes
from preftune.types import Message, Prompt, content_id

SHINGLE = 3  # words
_SPREAD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd: one for each place
_WORDS_REMEMBERED = 2**16

Shingles = frozenset[int]
"""The hashed runs of three words of a text."""


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
    runs, _ = runs_of_words([text])
    return frozenset(runs.tolist())


def runs_of_words(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the runs of three words of normal texts, hashed to 64 bits, and where each begins.

    A run that a text has twice is there twice; a text of fewer than three words is one run.
    """
    words = [(own := text.split()) + [""] * (SHINGLE - len(own)) for text in texts]
    numbers = np.fromiter(map(_number, chain.from_iterable(words)), dtype=np.uint64)
    ends = np.cumsum([len(text) for text in words], dtype=np.int64)
    count = max(0, len(numbers) - SHINGLE + 1)
    runs = np.zeros(count, dtype=np.uint64)
    for place, odd in enumerate(_SPREAD):
        runs += numbers[place : place + count] * np.uint64(odd)
    within = np.ones(len(numbers), dtype=bool)  # places where a run begins that its text can hold
    for before_end in range(1, SHINGLE):
        within[ends - before_end] = False
    starts = np.concatenate([[0], ends])[:-1] - (SHINGLE - 1) * np.arange(len(texts))
    return runs[within[:count]], starts


def overlap(one: Shingles, other: Shingles) -> float:
    """Return the Jaccard index, the share of all runs that both have: 1 for equal sets."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """What of a prompt is compared: its runs of words, and what must be equal."""

    context: int  # system turns, tools and roles, hashed
    runs: tuple[Shingles, ...]  # of all turns; where there are several, of the last one as well

    def to(self, other: "Likeness") -> float:
        """Return how alike two prompts are, 0..1: the lesser of all turns and of the last turn.

        So neither a long system prompt nor a long history makes two questions the same.
        """
        if self.context != other.context:
            return 0.0
        return min(map(overlap, self.runs, other.runs))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A prompt before its words are hashed: the same as a `Likeness` has, in normal texts."""

    context: int
    texts: tuple[str, ...]


def compared(prompt: Prompt) -> Compared:
    """Return what of a prompt is compared."""
    turns = [m for m in prompt.messages if m.role != "system"]
    system = [normal(m.content) for m in prompt.messages if m.role == "system"]
    texts = [_words(m) for m in turns]
    context = msgspec.json.encode(([m.role for m in turns], system, prompt.tools), order="sorted")
    last = texts[-1:] if len(texts) > 1 else []
    return Compared(context=_hash64(context), texts=(" ".join(texts), *last))


def likeness(prompt: Prompt) -> Likeness:
    """Return what two prompts are compared by."""
    told = compared(prompt)
    return Likeness(context=told.context, runs=tuple(map(shingles, told.texts)))


def _words(message: Message) -> str:
    calls = (f"{call.name} {call.arguments}" for call in message.tool_calls)
    return normal(" ".join((message.content, *calls)))


@lru_cache(_WORDS_REMEMBERED)
def _number(word: str) -> int:
    return _hash64(word.encode())


def _hash64(told: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest())
