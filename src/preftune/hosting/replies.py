"""Replies that are being written: how each draws its next token, and when it ends."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from preftune.hosting.telling import Telling
from preftune.hosting.token_names import Names, TokenNames
from preftune.inference.picking import pick
from preftune.responses.sample import row_seed
from preftune.wire.chat import Alternative, Drawing, FinishReason, Token

if TYPE_CHECKING:
    from preftune.hosting.asking import Asking

AHEAD = 64  # numbers of a stream that are drawn at once
IMPOSSIBLE = -9999.0  # nats; JSON has no -inf
Top = tuple[tuple[int, float], ...]  # ids and log-probs of the likeliest tokens


@dataclass(kw_only=True, eq=False, slots=True)
class Reply:
    """One reply and all it has written.

    `finish` is "" while it is written. `logprobs` and `tops` are kept only where asked for.
    """

    asking: "Asking"
    index: int
    most: int  # tokens
    telling: Telling | None = None  # None: only the whole text is wanted, at the end
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    finish: FinishReason | None = None
    stopped: bool = False  # by a stop text
    text: str = ""
    score: float | None = None
    told_tokens: int = 0
    _numbers: Iterator[float] = field(init=False)
    _counts: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        seed = self.asking.ask.drawing.seed
        self._numbers = uniforms(row_seed(seed, "reply", self.index) if self.index else seed)

    @property
    def drawing(self) -> Drawing:
        """How it is drawn."""
        return self.asking.ask.drawing

    @property
    def mean_logprob(self) -> float:
        """Mean log-prob of its tokens in nats."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0

    def number(self) -> float:
        """Return the next number of its stream, in [0, 1)."""
        return next(self._numbers) if self.drawing.temperature else 0.0

    def penalised(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        """Return the logits with the penalties of what it holds already.

        Source: the OpenAI API, "Frequency and presence penalties": a token that was drawn c times
        loses c * frequency_penalty + (c > 0) * presence_penalty.
        """
        ids = torch.tensor(list(self._counts), device=logits.device)
        counts = torch.tensor(list(self._counts.values()), device=logits.device)
        taken = counts * self.drawing.frequency_penalty + self.drawing.presence_penalty
        return logits.index_add(0, ids, -taken.to(logits.dtype)) if self._counts else logits

    def add(self, id_: int, logprob: float, top: Top) -> None:
        """Add a token; `finish` says afterwards whether it was the last."""
        self.ids.append(id_)
        if self.asking.wants_logprobs:
            self.logprobs.append(logprob)
            self.tops.append(top)
        if self.drawing.presence_penalty or self.drawing.frequency_penalty:
            self._counts[id_] += 1
        if id_ in self.asking.end_ids:
            self.finish = "stop"
        elif self.telling is not None and self.telling.add(id_):
            self.finish, self.stopped = "stop", True
        elif len(self.ids) >= self.most:
            self.finish = "length"
        if self.finish:
            self._close()

    def _close(self) -> None:
        if self.telling is None:
            self.text = self.asking.words.decode(self.ids)
        else:
            self.telling.close(self.ids, stopped=self.stopped)
            self.text = self.telling.settled

    def tokens(self, names: TokenNames, begin: int, end: int) -> tuple[Token, ...]:
        """Return some of its tokens with their log-probs."""
        return tuple(
            token_of(names.written, names.of, *one)
            for one in zip(
                self.ids[begin:end], self.logprobs[begin:end], self.tops[begin:end], strict=True
            )
        )

    def shown(self) -> int:
        """Return how many of its tokens lie in text that is certain, counted from the first.

        The end token is none of them, nor are those that only a stop lies in.
        """
        if self.finish and not self.stopped:
            return len(self.ids) - sum(id_ in self.asking.end_ids for id_ in self.ids[-1:])
        if self.telling is None:
            return 0
        certain = len(self.text) if self.finish else self.telling.told
        return sum(begin < certain for begin in self.telling.begins)


def token_of(own: Names, other: Names, id_: int, logprob: float | None, top: Top) -> Token:
    """Return a token as it is told: named by `own`, those in its place by `other`."""
    text, raw = own(id_)
    others = [(*other(id_), value) for id_, value in top]
    return Token(
        id=id_,
        text=text,
        logprob=logprob,
        raw=raw,
        top=tuple(Alternative(text=t, raw=r, logprob=value) for t, r, value in others),
    )


def uniforms(seed: int) -> Iterator[float]:
    """Yield the numbers of a seed's own stream, those `inference.generate` takes."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    while True:
        yield from stream.random(AHEAD).tolist()


def draw(replies: Sequence[Reply], logits: Float[Tensor, "B V"]) -> None:
    """Give each reply its next token."""
    groups: dict[tuple[float, float, bool], list[int]] = defaultdict(list)
    for place, reply in enumerate(replies):
        d = reply.drawing
        greedy = d.temperature == 0 and not reply.asking.wants_logprobs
        groups[d.temperature, 1.0 if greedy else d.top_p, greedy].append(place)
    for (temperature, top_p, greedy), places in groups.items():
        whole = len(places) == len(replies)
        rows = [replies[place] for place in places]
        _draw_alike(rows, logits if whole else logits[places], temperature, top_p, greedy)


def _draw_alike(
    replies: Sequence[Reply],
    logits: Float[Tensor, "B V"],
    temperature: float,
    top_p: float,
    greedy: bool,
) -> None:
    """Give replies that draw in the same way their next tokens."""
    chosen = _with_penalties(replies, logits)
    if greedy:
        for reply, id_ in zip(replies, chosen.argmax(-1).tolist(), strict=True):
            reply.add(id_, 0.0, ())
        return
    numbers = torch.tensor([reply.number() for reply in replies], dtype=torch.float64)
    ids, likely = pick(
        chosen,
        numbers.to(logits.device),
        temperature=temperature,
        top_p=top_p if temperature else 1.0,
    )
    plain = likely[0]
    if chosen is not logits:
        plain = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1)
    tops = tops_of(logits, [reply.drawing.logprobs or 0 for reply in replies])
    for reply, id_, logprob, top in zip(replies, ids.tolist(), plain.tolist(), tops, strict=True):
        reply.add(id_, logprob, top)


def _with_penalties(replies: Sequence[Reply], logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Return the logits less the penalties, the same tensor where there are none."""
    if not any(r.drawing.presence_penalty or r.drawing.frequency_penalty for r in replies):
        return logits
    return torch.stack([r.penalised(row) for r, row in zip(replies, logits, strict=True)])


def tops_of(logits: Float[Tensor, "B V"], counts: Sequence[int]) -> list[Top]:
    """Return the likeliest tokens of each row with their log-probs, so many as are asked for."""
    if not any(counts):
        return [()] * len(counts)
    values, ids = logits.log_softmax(-1).clamp_min(IMPOSSIBLE).topk(max(counts), -1)
    return [
        tuple(zip(row_ids[:count], row[:count], strict=True))
        for row, row_ids, count in zip(values.tolist(), ids.tolist(), counts, strict=True)
    ]
