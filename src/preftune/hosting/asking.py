"""One request on its way: its replies, what has been told of them, and which are given."""

import time
from collections import deque
from dataclasses import dataclass, field

from preftune.hosting.library import Served
from preftune.hosting.replies import Reply, Top, token_of
from preftune.hosting.telling import Telling, Words
from preftune.hosting.token_names import TokenNames
from preftune.wire.chat import (
    Answer,
    Ask,
    Begun,
    Choice,
    Done,
    Echo,
    Failed,
    Piece,
    Token,
    encode_line,
)


@dataclass(kw_only=True, eq=False, slots=True)
class Asking:
    """A request whose model is loaded and whose prompt is tokens.

    Attributes:
        ask: the request.
        served: its model.
        prompt_ids: its prompt.
        prompt_text: the same as text, for the echo.
        most: longest reply, in tokens.
        arrived_s: when, by `time.monotonic`.
        lines: what has not been sent yet.
        replies: those begun, in the order of their indices.
        finished: those that have come to their end and been told of.
        unscored: finished ones that the reward model has not seen.
        closed: nothing more is to be done; `lines` may still hold the last of it.
        late: its deadline has passed.
    """

    ask: Ask
    served: Served
    prompt_ids: tuple[int, ...]
    prompt_text: str
    most: int
    arrived_s: float
    lines: list[bytes] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    finished: list[Reply] = field(default_factory=list)
    unscored: deque[Reply] = field(default_factory=deque)
    closed: bool = False
    late: bool = False
    drawn: int = field(init=False)  # replies to draw
    lost: int = 0  # replies given up at the deadline
    lost_tokens: int = 0  # what they had written

    def __post_init__(self) -> None:
        self.drawn = max(self.ask.n, self.ask.best_of)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a reply."""
        return self.served.chat.end_ids

    @property
    def words(self) -> Words:
        """How its ids become text."""
        return self.served.words

    @property
    def names(self) -> TokenNames:
        """How its single tokens are told."""
        return self.served.names

    @property
    def chooses(self) -> bool:
        """Whether only the best of the replies are given."""
        return self.ask.best_of > 0

    @property
    def tells_logprobs(self) -> bool:
        """Whether tokens are told with their log-probs."""
        return self.ask.drawing.logprobs is not None

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probs must be known, be it to choose by."""
        return self.tells_logprobs or (self.chooses and not self.ask.reward_model)

    @property
    def unstarted(self) -> int:
        """Replies that still wait for a place."""
        return 0 if self.closed else self.drawn - len(self.replies)

    def begin(self) -> None:
        """Tell that the request is being answered."""
        self.send(Begun(prompt_tokens=len(self.prompt_ids), fingerprint=self.served.fingerprint))

    def new_reply(self) -> Reply:
        """Return the next reply."""
        stops = self.ask.drawing.stop
        telling = None
        if stops or (self.ask.stream and not self.chooses):
            telling = Telling(words=self.words, stops=stops)
        reply = Reply(asking=self, index=len(self.replies), most=self.most, telling=telling)
        self.replies.append(reply)
        return reply

    def echo(self, logprobs: list[float | None], tops: list[Top]) -> None:
        """Tell the prompt; no log-probs where none were asked for."""
        tokens: tuple[Token, ...] = ()
        if self.tells_logprobs:
            told = zip(self.prompt_ids, logprobs, tops, strict=True)
            tokens = tuple(token_of(self.names.of, self.names.of, *one) for one in told)
        self.send(Echo(text=self.prompt_text, tokens=tokens))

    def wrote(self, reply: Reply) -> None:
        """Tell what is new of a reply; conclude when it was the last."""
        if self.closed:
            return
        if self.ask.stream and not self.chooses:
            self._tell_piece(reply)
        if not reply.finish:
            return
        self.finished.append(reply)
        if self.ask.reward_model:
            self.unscored.append(reply)
        if not self.chooses:
            self.send(self._choice(reply, reply.index))
        self.conclude()

    def hurry(self) -> list[Reply]:
        """Note that the deadline has passed; return the replies that are given up.

        As many of the furthest ones as are needed to give `n` are written to their end.
        """
        self.late = True
        needed = max(0, self.ask.n - len(self.finished))
        writing = sorted(
            (reply for reply in self.replies if not reply.finish), key=lambda r: -len(r.ids)
        )
        self.drawn = len(self.replies) + max(0, needed - len(writing))
        given_up = writing[needed:]
        self.replies = [reply for reply in self.replies if reply not in given_up]
        self.drawn -= len(given_up)
        self.lost_tokens += sum(len(reply.ids) for reply in given_up)
        self.lost += len(given_up)
        self.conclude()
        return given_up

    def conclude(self) -> None:
        """Tell the end, if all that is to be drawn and scored has been."""
        finished = self.finished
        if self.closed or len(finished) < self.drawn:
            return
        scored = sum(reply.score is not None for reply in finished)
        if self.unscored and not (self.late and scored >= self.ask.n):
            return
        given = finished
        if self.chooses:
            given = self._best(finished)
            for index, reply in enumerate(given):
                choice = self._choice(reply, index)
                if self.ask.stream:
                    self.send(Piece(index=index, text=choice.text, tokens=choice.tokens))
                self.send(choice)
        self.close(
            Done(
                prompt_tokens=len(self.prompt_ids),
                completion_tokens=sum(reply.shown() for reply in given),
                drawn_tokens=sum(len(reply.ids) for reply in finished) + self.lost_tokens,
                drawn=len(self.replies) + self.lost,
                finished=len(finished),
                scored=scored,
                seconds=time.monotonic() - self.arrived_s,
            )
        )

    def fail(self, failed: Failed) -> None:
        """End the request with an error."""
        if not self.closed:
            self.close(failed)

    def close(self, last: Answer) -> None:
        """End the request with this line."""
        self.send(last)
        self.closed = True
        self.unscored.clear()

    def send(self, answer: Answer) -> None:
        """Put a line on its way."""
        self.lines.append(encode_line(answer))

    def _tell_piece(self, reply: Reply) -> None:
        text = reply.telling.news() if reply.telling else ""
        tokens: tuple[Token, ...] = ()
        if self.tells_logprobs:
            end = reply.shown()
            tokens = reply.tokens(self.names, reply.told_tokens, end)
            reply.told_tokens = max(end, reply.told_tokens)
        if text or tokens:
            self.send(Piece(index=reply.index, text=text, tokens=tokens))

    def _choice(self, reply: Reply, index: int) -> Choice:
        shown = reply.shown()
        tokens = reply.tokens(self.names, 0, shown) if self.tells_logprobs else ()
        return Choice(
            index=index,
            text=reply.text,
            finish=reply.finish or "length",
            drawn=len(reply.ids),
            tokens=tokens,
            score=reply.score,
        )

    def _best(self, finished: list[Reply]) -> list[Reply]:
        """Return the best replies, the best first, the first of equals."""
        if not self.ask.reward_model:
            for reply in finished:
                reply.score = reply.mean_logprob
        scored = [reply for reply in finished if reply.score is not None]
        return sorted(scored, key=lambda r: (-(r.score or 0.0), r.index))[: self.ask.n]
