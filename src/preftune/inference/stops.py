"""Texts that end a reply: looked for in what each row has written so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

TAIL = 16  # tokens that are decoded at first to look for a stop

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stops:
    """The texts, and how ids become text."""

    texts: tuple[str, ...]
    decode: Decode

    def ended_at(self, ids: Sequence[int], new: int) -> int | None:
        """Return how many tokens of a reply hold a stop for the first time, None if none do.

        Args:
            ids: the reply so far.
            new: how many of its last tokens have not been looked at.
        """
        for count in range(len(ids) - new + 1, len(ids) + 1):
            if self._in_tail(ids[:count]) and cut(self.decode(ids[:count]), self.texts)[1]:
                return count
        return None

    def _in_tail(self, ids: Sequence[int]) -> bool:
        """Whether the end of a reply holds a stop: the last tokens, enough for the longest one.

        A token may be no text, or part of a character: more are taken until there is text enough.
        """
        longest = max(map(len, self.texts))
        take = TAIL
        while True:
            text = self.decode(ids[-take:])
            if len(text) > 2 * longest + TAIL or take >= len(ids):
                return any(stop in text for stop in self.texts)
            take *= 2


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first stop in it, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
