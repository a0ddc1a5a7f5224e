"""Replies written together: `Together` lets them come and go at every step, `Alone` does not.

A step adds one token to each reply of a group. Between steps requests join, leave, and are told.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.hosting.asking import Asking
from preftune.hosting.lora import Adapter
from preftune.hosting.plan import Reading, plan_of
from preftune.hosting.replies import Reply, Top, draw, tops_of
from preftune.hosting.settings import GIB, HostingSettings
from preftune.hosting.shelves import Shelves, capacity_for
from preftune.hosting.stream import Stream
from preftune.inference.decoder import Decoder, decoder_for

FAST_READING = 4  # times the tokens of prompts are read at once while nothing is written


class Group(Protocol):
    """Requests to one model."""

    def add(self, asking: Asking) -> None:
        """Take a request; it is begun when there is a place."""

    def step(self) -> None:
        """Write one token of each reply, or read more of the prompts."""

    def drop(self, replies: Sequence[Reply]) -> None:
        """Stop writing these replies."""

    def askings(self) -> set[Asking]:
        """Return all requests that are here."""

    @property
    def writing(self) -> int:
        """Replies that are being written."""

    @property
    def waiting(self) -> int:
        """Requests of which nothing is written yet."""


@dataclass(eq=False, slots=True)
class Prompt:
    """The prompt of a request: being read, then the beginning of each of its replies."""

    asking: Asking
    reading: Reading
    first: Float[Tensor, "1 V"] | None = None  # logits of the first token of every reply
    logprobs: list[float | None] = field(default_factory=lambda: [None])  # for the echo
    tops: list[Top] = field(default_factory=lambda: [()])


class Together:
    """Replies of any age on one base, through one forward a step."""

    def __init__(self, stream: Stream, settings: HostingSettings) -> None:
        self.stream, self.settings = stream, settings
        self.shelves: Shelves[Reply] = Shelves(stream.shape)
        self.queue: deque[Asking] = deque()
        self.prompts: list[Prompt] = []  # being read, or with replies that are not begun

    def add(self, asking: Asking) -> None:
        """Take a request."""
        self.queue.append(asking)

    def drop(self, replies: Sequence[Reply]) -> None:
        """Stop writing these replies."""
        for reply in replies:
            self.shelves.take(reply)

    def askings(self) -> set[Asking]:
        """Return all requests that are here."""
        here = {reply.asking for reply in self.shelves.rows()}
        return here | set(self.queue) | {prompt.asking for prompt in self.prompts}

    @property
    def writing(self) -> int:
        """Replies that are being written."""
        return sum(len(shelf.rows) for shelf in self.shelves.shelves())

    @property
    def waiting(self) -> int:
        """Requests of which nothing is written yet."""
        return len(self.queue) + sum(not prompt.asking.replies for prompt in self.prompts)

    def step(self) -> None:
        """Write one token of each reply and read more of the prompts."""
        self._leave()
        self._begin_reading()
        self.shelves.make_room()
        replies, pieces = self.shelves.rows(), list(self._pieces())
        if replies or pieces:
            self._forward(replies, pieces)
        for prompt in list(self.prompts):
            self._begin_replies(prompt)

    def _leave(self) -> None:
        """Free the places of requests that have been closed."""
        self.drop([reply for reply in self.shelves.rows() if reply.asking.closed])
        self.prompts = [prompt for prompt in self.prompts if prompt.asking.unstarted]
        self.queue = deque(asking for asking in self.queue if not asking.closed)

    def _begin_reading(self) -> None:
        """Give waiting requests their turn while there are places and memory."""
        places = self.settings.rows - self.writing
        places -= sum(prompt.asking.unstarted for prompt in self.prompts)
        while self.queue and (places > 0 or not self._busy):
            asking = self.queue[0]
            if self._busy and self._held_bytes(asking) > self.settings.cache_gib * GIB:
                return
            self.queue.popleft()
            places -= asking.unstarted
            reading = self.stream.reading(
                asking.prompt_ids,
                adapter=asking.served.adapter,
                every=asking.ask.echo and asking.tells_logprobs,
            )
            self.prompts.append(Prompt(asking, reading))

    @property
    def _busy(self) -> bool:
        return bool(self.prompts or self.shelves.by_capacity)

    def _held_bytes(self, coming: Asking) -> int:
        """Return the bytes of all keys and values with those of one more request."""
        reading = sum(prompt.reading.held.nbytes for prompt in self.prompts)
        tokens = coming.unstarted * capacity_for(len(coming.prompt_ids) + 1)
        return self.shelves.bytes + reading + tokens * self.stream.shape.token_bytes

    def _pieces(self) -> Iterator[tuple[Reading, int]]:
        """Yield which prompts are read next, and how many tokens of each."""
        left = self.settings.chunk_tokens * (1 if self.shelves.by_capacity else FAST_READING)
        for prompt in self.prompts:
            reading = prompt.reading
            tokens = min(left, len(reading.ids) - reading.read)
            if tokens:
                yield reading, tokens
            left -= tokens

    def _forward(self, replies: list[Reply], pieces: list[tuple[Reading, int]]) -> None:
        plan = plan_of(self.stream.sizes, self.shelves.shelves(), pieces)
        adapters: list[Adapter | None] = [reply.asking.served.adapter for reply in replies]
        logits = self.stream.forward(plan, [reply.ids[-1] for reply in replies], adapters)
        self.shelves.written()
        if replies:
            self._write(replies, logits[: len(replies)])
        at = len(replies)
        by_reading = {id(prompt.reading): prompt for prompt in self.prompts}
        for chunk in plan.chunks:
            prompt, kept = by_reading[id(chunk.reading)], len(chunk.kept)
            self._read(prompt, chunk.start, logits[at : at + kept])
            at += kept

    def _write(self, replies: Sequence[Reply], logits: Float[Tensor, "B V"]) -> None:
        """Draw a token for each of these replies; those that end leave."""
        draw(replies, logits)
        self.drop([reply for reply in replies if reply.finish])
        for reply in replies:
            reply.asking.wrote(reply)

    def _read(self, prompt: Prompt, start: int, logits: Float[Tensor, "K V"]) -> None:
        """Take the logits of a piece of a prompt."""
        reading, asking = prompt.reading, prompt.asking
        if reading.done:
            prompt.first = logits[-1:]
        if reading.every:
            following = reading.ids[start + 1 : start + 1 + len(logits)]
            note_echo(prompt.logprobs, prompt.tops, logits, following, asking)
            if reading.done:
                asking.echo(prompt.logprobs, prompt.tops)
                if not asking.most:
                    nothing_written(asking)

    def _begin_replies(self, prompt: Prompt) -> None:
        """Begin as many replies to a prompt that has been read as there are places."""
        asking = prompt.asking
        if prompt.first is None or asking.closed:
            return
        places = max(self.settings.rows - self.writing, 0 if self.writing else 1)
        new = [asking.new_reply() for _ in range(min(places, asking.unstarted))]
        if not new:
            return
        draw(new, prompt.first.expand(len(new), -1))
        for reply in new:
            if not reply.finish:
                self.shelves.put(reply, prompt.reading.held, len(prompt.reading.ids))
        for reply in new:
            asking.wrote(reply)


def note_echo(
    logprobs: list[float | None],
    tops: list[Top],
    logits: Float[Tensor, "K V"],
    following: Sequence[int],
    asking: Asking,
) -> None:
    """Add the log-probs of the tokens that follow in the prompt."""
    logits = logits[: len(following)]
    ids = torch.tensor(following, dtype=torch.long, device=logits.device)[:, None]
    found = logits.log_softmax(-1).gather(1, ids)[:, 0]
    logprobs += found.tolist()
    tops += tops_of(logits, [asking.ask.drawing.logprobs or 0] * len(following))


def nothing_written(asking: Asking) -> None:
    """End a request that wants no token: each of its replies is empty."""
    while asking.unstarted:
        reply = asking.new_reply()
        reply.finish = "length"
        asking.wrote(reply)


class Alone:
    """Requests to a model whose tokens cannot share a forward with others: one after the other."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.queue: deque[Asking] = deque()
        self.replies: list[Reply] = []  # of the request that is being answered
        self.decoder: Decoder | None = None

    def add(self, asking: Asking) -> None:
        """Take a request."""
        self.queue.append(asking)

    def drop(self, replies: Sequence[Reply]) -> None:
        """Stop writing these replies."""
        gone = set(replies)
        kept = [place for place, reply in enumerate(self.replies) if reply not in gone]
        if self.decoder is not None and kept and len(kept) < len(self.replies):
            self.decoder.keep(torch.tensor(kept, device=self.decoder.device))
        self.replies = [self.replies[place] for place in kept]

    def askings(self) -> set[Asking]:
        """Return all requests that are here."""
        return {reply.asking for reply in self.replies} | set(self.queue)

    @property
    def writing(self) -> int:
        """Replies that are being written."""
        return len(self.replies)

    @property
    def waiting(self) -> int:
        """Requests of which nothing is written yet."""
        return len(self.queue)

    def step(self) -> None:
        """Write one token of each reply to one request."""
        self.drop([reply for reply in self.replies if reply.asking.closed])
        self.queue = deque(asking for asking in self.queue if not asking.closed)
        if self.replies and self.decoder is not None:
            newest = torch.tensor([r.ids[-1] for r in self.replies], device=self.decoder.device)
            self._write(self.decoder.step(newest))
        elif self.queue:
            self._begin(self.queue.popleft())

    def _begin(self, asking: Asking) -> None:
        if asking.ask.echo and asking.tells_logprobs:
            self._echo(asking)
        if not asking.most:
            nothing_written(asking)
            return
        count, ids = asking.unstarted, asking.prompt_ids
        self.replies = [asking.new_reply() for _ in range(count)]
        pad_id = asking.served.chat.pad_id
        self.decoder = decoder_for(self.model, [ids] * count, pad_id=pad_id, new_tokens=asking.most)
        self._write(self.decoder.start())

    def _write(self, logits: Float[Tensor, "B V"]) -> None:
        replies = list(self.replies)
        draw(replies, logits)
        self.drop([reply for reply in replies if reply.finish])
        for reply in replies:
            reply.asking.wrote(reply)

    def _echo(self, asking: Asking) -> None:
        """Tell the prompt with its log-probs, from one forward of the model."""
        ids = torch.tensor([asking.prompt_ids], device=next(self.model.parameters()).device)
        logits = self.model(ids).logits[0].float()
        logprobs: list[float | None] = [None]
        tops: list[Top] = [()]
        note_echo(logprobs, tops, logits, asking.prompt_ids[1:], asking)
        asking.echo(logprobs, tops)
