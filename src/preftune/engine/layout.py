"""How the tokens of a batch lie in memory: one stream without padding, each prefix once.

    row 1: | prefix | rest of response 1 | rest of response 2 | row 2: | prefix | …

The sequences of a row share their longest common prefix, which is at least the prompt. Position
ids go on after the prefix in every response, so a token has the position it has in its own
sequence. `scored` says where in the stream the log-prob of each own token is read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from preftune.models.tokens import TokenSequence

T = TypeVar("T")


@runtime_checkable
class HasSequences(Protocol):
    """A row of any method: responses to one prompt."""

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All token sequences of the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One row in the stream: a prefix at `start`, then the rest of each of its sequences."""

    start: int
    prefix: int  # tokens
    rests: tuple[int, ...]  # tokens of each sequence after the prefix; may be 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A batch of B sequences as it goes through the model, and what is read from it.

    The hidden states come back as one flat list of places, whatever their shape was.
    """

    ids: Int[Tensor, "R T"]  # one stream (R = 1), or padded rows
    positions: Int[Tensor, "R T"]
    mask: Bool[Tensor, "R T"]  # False on padding
    groups: tuple[Group, ...]  # empty when rows are padded
    scored: Int[Tensor, " N"]  # the place before each own token, which predicts it
    targets: Int[Tensor, " N"]  # the own tokens, sequence after sequence
    own: Bool[Tensor, "B W"]  # left-aligned: W is the largest number of own tokens
    last: Int[Tensor, " B"]  # the place of the last own token
    longest: int  # tokens of the longest sequence
    memory: dict[Any, Any] = field(default_factory=dict)  # what every layer would make anew

    def remember(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make` gave the first time it was asked for under this key."""
        if key not in self.memory:
            self.memory[key] = make()
        found: T = self.memory[key]
        return found

    def to(self, device: torch.device) -> "Layout":
        """Return the layout with its tensors on a device."""
        return Layout(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            mask=self.mask.to(device),
            groups=self.groups,
            scored=self.scored.to(device),
            targets=self.targets.to(device),
            own=self.own.to(device),
            last=self.last.to(device),
            longest=self.longest,
        )


def packed(rows: Sequence[Sequence[TokenSequence]]) -> Layout:
    """Return the rows as one stream: no padding, the common prefix of a row once."""
    groups, ids, positions, starts = [], [], [], []
    start = 0
    for row in rows:
        sequences = [np.asarray(sequence.ids, dtype=np.int64) for sequence in row]
        prefix = common_prefix(sequences)
        rests = tuple(len(sequence) - prefix for sequence in sequences)
        groups.append(Group(start=start, prefix=prefix, rests=rests))
        ids += [sequences[0][:prefix], *(sequence[prefix:] for sequence in sequences)]
        positions += [np.arange(prefix), *(np.arange(prefix, prefix + rest) for rest in rests)]
        rest_starts = start + prefix + np.cumsum([0, *rests[:-1]])
        starts += [(start, prefix, int(place)) for place in rest_starts]
        start += prefix + sum(rests)
    stream = torch.from_numpy(np.concatenate(ids))[None]
    return _layout(
        [s for row in rows for s in row],
        starts,
        ids=stream,
        positions=torch.from_numpy(np.concatenate(positions))[None],
        mask=torch.ones_like(stream, dtype=torch.bool),
        groups=tuple(groups),
    )


def padded(rows: Sequence[Sequence[TokenSequence]]) -> Layout:
    """Return every sequence in a row of its own, padded on the right with id 0."""
    sequences = [sequence for row in rows for sequence in row]
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for place, sequence in enumerate(sequences):
        ids[place, : len(sequence)] = torch.as_tensor(np.asarray(sequence.ids, dtype=np.int64))
        mask[place, : len(sequence)] = True
    return _layout(
        sequences,
        [(place * width, width, 0) for place in range(len(sequences))],
        ids=ids,
        positions=torch.arange(width).expand(len(sequences), width),
        mask=mask,
        groups=(),
    )


def micro_batches(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Yield ranges of consecutive rows of at most `budget` tokens in all, at least one row each.

    Args:
        lengths: tokens of each row as it goes through the model.
        budget: most tokens in one forward; 0: no limit.
    """
    begin, total = 0, 0
    for row, length in enumerate(lengths):
        if budget and row > begin and total + length > budget:
            yield range(begin, row)
            begin, total = row, 0
        total += length
    if begin < len(lengths):
        yield range(begin, len(lengths))


def stream_length(row: Sequence[TokenSequence]) -> int:
    """Return how many tokens a row takes in the stream: its prompt once, every response."""
    return len(row[0].prompt_ids) + sum(len(sequence.response_ids) for sequence in row)


def triangle(tokens: int) -> int:
    """Return 1 + 2 + ... + tokens: each token sees those before it and itself."""
    return tokens * (tokens + 1) // 2


def common_prefix(sequences: Sequence["np.ndarray[tuple[int], np.dtype[np.int64]]"]) -> int:
    """Return how many tokens at the start all sequences have in common."""
    shortest = min(len(sequence) for sequence in sequences)
    same = np.ones(shortest, dtype=bool)
    for other in sequences[1:]:
        same &= sequences[0][:shortest] == other[:shortest]
    return shortest if same.all() else int(same.argmin())


def _layout(
    sequences: Sequence[TokenSequence],
    starts: Sequence[tuple[int, int, int]],
    *,
    ids: Tensor,
    positions: Tensor,
    mask: Tensor,
    groups: tuple[Group, ...],
) -> Layout:
    """Return the layout with where own tokens are read.

    The first token of a sequence is never scored: nothing comes before it.

    Args:
        sequences: all sequences, in order.
        starts: of each, the place of its prefix, the prefix's length, the place of its rest.
        ids: the tokens as they go through the model.
        positions: their position ids.
        mask: False on padding.
        groups: how a stream is divided; empty for padded rows.
    """
    scored, targets, counts, last = [], [], [], []
    for sequence, (start, prefix, rest) in zip(sequences, starts, strict=True):
        own = np.flatnonzero(np.asarray(sequence.own, dtype=bool))
        own = own[own > 0]
        places = np.arange(len(sequence))
        places = np.where(places < prefix, start + places, rest - prefix + places)
        scored.append(places[own - 1])
        targets.append(np.asarray(sequence.ids, dtype=np.int64)[own])
        counts.append(len(own))
        last.append(int(places[own[-1]]) if len(own) else int(places[-1]))
    return Layout(
        ids=ids,
        positions=positions,
        mask=mask,
        groups=groups,
        scored=torch.from_numpy(np.concatenate(scored)),
        targets=torch.from_numpy(np.concatenate(targets)),
        own=torch.arange(max(counts))[None] < torch.tensor(counts)[:, None],
        last=torch.tensor(last),
        longest=max(len(sequence) for sequence in sequences),
    )
