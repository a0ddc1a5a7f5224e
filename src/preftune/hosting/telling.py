"""The text of a reply while it is written: told as soon as nothing can change it any more.

Bytes of half a character wait for the other half, the beginning of what may become a stop waits
until it has become something else, and so does what the template writes before the end of a turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from preftune.inference.stops import cut
from preftune.models.chat import PROBE, PROBE_ANSWER, Chat
from preftune.types import assistant

HALF = "\ufffd"  # what bytes that are no character, or not yet, are shown as
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """How ids become text in one chat, and what its template puts around every answer."""

    decode: Decode
    lead: str = ""
    tail: str = ""

    @classmethod
    def of(cls, chat: Chat) -> "Words":
        """Return those of a chat."""

        def decode(ids: Sequence[int]) -> str:
            return chat.decode(ids)[0].content

        ids = chat.encode(PROBE, (assistant(PROBE_ANSWER),)).response_ids
        open_end = next((i for i, id_ in enumerate(ids) if id_ in chat.end_ids), len(ids))
        whole = str(chat.tokenizer.decode(ids, skip_special_tokens=True))
        return cls(
            decode=decode,
            lead=whole[: max(0, whole.find(PROBE_ANSWER))],
            tail=decode(ids[:open_end]).removeprefix(PROBE_ANSWER),
        )


@dataclass(kw_only=True, slots=True)
class Telling:
    """One reply as text.

    Attributes:
        words: how ids become text.
        stops: texts that end the reply.
        settled: text that no further token changes.
        told: how many characters of it have been told.
        begins: where each token begins in the text; those of one character begin where it does.
    """

    words: Words
    stops: tuple[str, ...] = ()
    settled: str = ""
    told: int = 0
    begins: list[int] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _context: int = 0  # the window that is decoded begins here
    _done: int = 0  # tokens whose text is settled
    _known: str = ""  # text of the window's settled tokens
    _closed: bool = False

    def add(self, id_: int) -> bool:
        """Add a token and return whether the text now holds a stop."""
        self._ids.append(id_)
        self.begins.append(len(self.settled))
        window = self.words.decode(self._ids[self._context :])
        if not window.startswith(self._known):
            self._context, self._known = 0, self.settled  # a decoder that looks far back
            window = self.words.decode(self._ids)
        new = window[len(self._known) :]
        text = self.settled + new
        looked = max(0, len(self.settled) - max(map(len, self.stops), default=0))
        if any(text.find(stop, looked) >= 0 for stop in self.stops):
            self.settled = cut(text, self.stops)[0]
            return True
        if new and not new.endswith(HALF) and not self.words.lead.startswith(text):
            self._settle(text)
        return False

    def _settle(self, text: str) -> None:
        """Take this text as certain; the window goes on with the tokens that came last."""
        self.settled = text
        self._context, self._done = self._done, len(self._ids)
        self._known = self.words.decode(self._ids[self._context :])
        if not self._known:  # nothing shows where the next word begins: look back to the start
            self._context, self._known = 0, text

    def news(self) -> str:
        """Return text that is certain and was not told before."""
        certain = len(self.settled) - self._held()
        new = self.settled[self.told : certain]
        self.told = max(self.told, certain)
        return new

    def close(self, ids: Sequence[int], *, stopped: bool) -> None:
        """End the reply: `settled` is its text from now on, and all of it is certain.

        Args:
            ids: the whole reply, its end token included.
            stopped: whether `add` has found a stop; the text is cut already.
        """
        if not stopped:
            whole = cut(self.words.decode(ids), self.stops)[0]
            self.settled = self.settled[: self.told] + whole[self.told :]  # told is told
        self._closed = True

    def _held(self) -> int:
        """Return how many of the last characters may yet become a stop or the template's."""
        if self._closed:
            return 0
        most = max((len(text) for text in (*self.stops, self.words.tail)), default=0)
        for size in range(min(most, len(self.settled)), 0, -1):
            end = self.settled[-size:]
            if self.words.tail.startswith(end) or any(s.startswith(end) for s in self.stops):
                return size
        return 0
