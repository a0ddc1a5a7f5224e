"""Which tokens of a packed stream attend to which: its rows cut into segments."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.engine.layout import Group

SHORT_ROW = 384  # tokens up to which a row with several responses is one segment


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Queries that attend together, to keys of which they are the last."""

    queries: slice
    keys: tuple[slice, ...]  # joined in this order
    hidden: Bool[Tensor, "Q K"] | None  # True: not seen; None: plain causal attention
    bias: Float[Tensor, "Q K"] | None  # the same as -inf or 0, to be added to scores


def segments(groups: tuple[Group, ...]) -> Iterator[tuple[slice, tuple[slice, ...]]]:
    """Yield the places of the queries of each segment and those of its keys, in order.

    The queries are the last of their keys: causal from the bottom right.
    """
    for group in groups:
        rest = group.start + group.prefix
        first = slice(group.start, rest + group.rests[0])
        yield first, (first,)
        rest = first.stop
        for length in group.rests[1:]:
            own = slice(rest, rest + length)
            if length:
                yield own, (slice(group.start, group.start + group.prefix), own)
            rest = own.stop


def cpu_segments(groups: tuple[Group, ...], dtype: torch.dtype) -> list[Segment]:
    """Return the segments of a stream: a short row is one with a mask of its own."""
    found = []
    for group in groups:
        length = group.prefix + sum(group.rests)
        if len(group.rests) > 1 and length <= SHORT_ROW:
            row = slice(group.start, group.start + length)
            found.append(_masked(row, (row,), _hidden_in_row(group), dtype))
            continue
        for queries, keys in segments((group,)):
            count = queries.stop - queries.start
            seen = sum(part.stop - part.start for part in keys)
            if seen == count:
                found.append(Segment(queries=queries, keys=keys, hidden=None, bias=None))
            else:
                later = torch.ones(count, seen, dtype=torch.bool).triu_(seen - count + 1)
                found.append(_masked(queries, keys, later, dtype))
    return found


def _masked(queries: slice, keys: tuple[slice, ...], hidden: Tensor, dtype: torch.dtype) -> Segment:
    bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
    return Segment(queries=queries, keys=keys, hidden=hidden, bias=bias)


def _hidden_in_row(group: Group) -> Bool[Tensor, "T T"]:
    """Return what a token of a row does not see: later ones, and the siblings before its own."""
    length = group.prefix + sum(group.rests)
    hidden = torch.ones(length, length, dtype=torch.bool).triu_(1)
    begin = group.prefix
    for rest in group.rests:
        hidden[begin : begin + rest, group.prefix : begin] = True
        begin += rest
    return hidden
