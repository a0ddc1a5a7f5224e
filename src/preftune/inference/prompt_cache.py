"""Keys and values of a batch that is being written: those of each prompt once, for all its replies.

    bucket:  prompts of like length  [P G L D]   padded on the right up to the longest of them
    replies: own tokens of each row  [B G T D]   never padded, all rows write in step

A new token attends to its prompt and to its own reply apart; both results are joined by their
masses. So a prompt is neither copied for each reply nor moved when rows leave, and no mask grows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

WASTE = 400_000  # bytes of padding that are read as fast as one more bucket is begun
ROOM = 64  # tokens of a reply there is room for at first

Cache = Float[Tensor, "_ _ _ _"]  # prompts or rows, key heads, tokens, width


@dataclass(kw_only=True, slots=True)
class Bucket:
    """Prompts of like length and the rows that continue them."""

    rows: slice  # of the batch
    owner: Int[Tensor, " b"]  # the prompt of each of these rows, counted from the bucket's first
    lengths: Int[Tensor, " P"]
    bias: (
        Float[Tensor, "P 1 1 L"] | None
    )  # -inf behind the end of a prompt; None: all of one length
    places: Int[Tensor, " b"] | None = None  # of the rows among P * most; None: rows fill them all
    most: int = 1  # rows of one prompt

    def arrange(self) -> None:
        """Give every row its place; prompts with fewer rows than others have places left over."""
        counts = torch.bincount(self.owner, minlength=len(self.lengths))
        self.most = max(counts.tolist(), default=0)
        if len(self.owner) == len(counts) * self.most:
            self.places = None
            return
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(self.owner)) - first[self.owner]
        self.places = self.owner * self.most + rank

    def keep(self, rows: Int[Tensor, " K"]) -> Int[Tensor, " Q"]:
        """Go on with these of its rows only and return which prompts are left."""
        found: tuple[Tensor, Tensor] = self.owner[rows].unique(return_inverse=True)
        left, self.owner = found
        self.lengths = self.lengths[left]
        self.bias = None if self.bias is None else self.bias[left]
        self.arrange()
        return left

    def stacked(self, query: Float[Tensor, "b G r D"]) -> Float[Tensor, "P G q D"]:
        """Return the queries of all rows of a prompt as queries of that prompt."""
        _, heads, ratio, width = query.shape
        if self.places is not None:
            query, rows = query.new_zeros(len(self.lengths) * self.most, *query.shape[1:]), query
            query[self.places] = rows
        by_prompt = query.view(-1, self.most, heads, ratio, width).transpose(1, 2)
        return by_prompt.reshape(-1, heads, self.most * ratio, width)

    def joined(
        self,
        own: Float[Tensor, "b G r E"],
        own_mass: Float[Tensor, "b G r"],
        found: Float[Tensor, "P G q E"],
        mass: Float[Tensor, "P G q"],
    ) -> Float[Tensor, "b G r E"]:
        """Return attention to a row's own tokens and to its prompt as attention to both.

        Source: blocks are joined by their masses, Dao et al. 2022, arXiv:2205.14135.

        Args:
            own: what each row found among its own tokens.
            own_mass: log of the sum of its exponentiated scores there.
            found: what the rows found in their prompts, as `stacked` lays them.
            mass: the same log of it.
        """
        theirs, mass = self._by_row(found), self._by_row(mass[..., None])
        share = torch.sigmoid(mass - own_mass.reshape(mass.shape)).to(own.dtype)
        return torch.lerp(own.reshape(theirs.shape), theirs, share).reshape(own.shape)

    def _by_row(self, found: Float[Tensor, "P G q E"]) -> Tensor:
        """Return a view `[P m G r E]`, or `[b G r E]` where rows do not fill all places."""
        prompts, heads, queries, width = found.shape
        apart = found.view(prompts, heads, self.most, queries // self.most, width).transpose(1, 2)
        return apart if self.places is None else apart.flatten(0, 1)[self.places]


def buckets(
    lengths: Sequence[int], rows: Sequence[int], *, dtype: torch.dtype, token_bytes: int
) -> list[Bucket]:
    """Return the rows of a batch in buckets, in their order.

    Args:
        lengths: tokens of each prompt, longest first.
        rows: rows of each prompt; they lie behind each other, prompt after prompt.
        dtype: of the queries.
        token_bytes: about what the keys and values of one token take in one layer.
    """
    found = []
    begin = 0
    for first, last in _spans(lengths, WASTE // token_bytes):
        held, counts = torch.tensor(lengths[first:last]), torch.tensor(rows[first:last])
        bias = None
        if lengths[last - 1] < lengths[first]:
            behind = torch.arange(lengths[first]) >= held[:, None]
            bias = torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, -torch.inf)
            bias = bias[:, None, None]
        end = begin + int(counts.sum())
        owner = torch.arange(last - first).repeat_interleave(counts)
        bucket = Bucket(rows=slice(begin, end), owner=owner, lengths=held, bias=bias)
        bucket.arrange()
        found.append(bucket)
        begin = end
    return found


def _spans(lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield where each bucket begins and ends, with at most so many tokens of padding in it."""
    begin = padding = 0
    for place, length in enumerate(lengths):
        padding += lengths[begin] - length
        if padding > most:
            yield begin, place
            begin, padding = place, 0
    yield begin, len(lengths)


@dataclass(kw_only=True, slots=True)
class Layer:
    """Keys and values of one attention layer."""

    prompts: list[tuple[Cache, Cache]] = field(default_factory=list)  # of each bucket
    own: tuple[Cache, Cache] | None = None  # with room behind what is written

    def read(self, key: Cache, value: Cache, found: Sequence[Bucket]) -> None:
        """Take the keys and values `[1 G T D]` of all prompts, which lie behind each other."""
        start = 0
        for bucket in found:
            lengths = bucket.lengths.tolist()
            held = tuple(
                part.new_zeros(len(lengths), part.shape[1], max(lengths), part.shape[3])
                for part in (key, value)
            )
            for prompt, length in enumerate(lengths):
                for room, part in zip(held, (key, value), strict=True):
                    room[prompt, :, :length] = part[0, :, start : start + length]
                start += length
            self.prompts.append((held[0], held[1]))

    def write(self, key: Cache, value: Cache, written: int) -> tuple[Cache, Cache]:
        """Add one token to each row, behind `written` ones; return the keys and values so far."""
        if self.own is None or written == self.own[0].shape[2]:
            self.own = self._roomier(0, key, written), self._roomier(1, value, written)
        keys, values = self.own
        keys.select(2, written).copy_(key.select(2, 0))
        values.select(2, written).copy_(value.select(2, 0))
        return keys.narrow(2, 0, written + 1), values.narrow(2, 0, written + 1)

    def keep(self, rows: Int[Tensor, " K"], prompts: Sequence[Int[Tensor, " _"]]) -> None:
        """Go on with these rows, and with these prompts of each bucket that has any left."""
        if self.own is not None:
            self.own = self.own[0][rows], self.own[1][rows]
        self.prompts = [
            (keys, values) if len(left) == len(keys) else (keys[left], values[left])
            for (keys, values), left in zip(self.prompts, prompts, strict=True)
            if len(left)
        ]

    def _roomier(self, which: int, new: Cache, written: int) -> Cache:
        """Return a copy of the keys (0) or values (1) with twice the room."""
        rows, heads, _, width = new.shape
        room = new.new_empty(rows, heads, max(ROOM, 2 * written), width)
        if self.own is not None:
            room[:, :, :written] = self.own[which]
        return room
