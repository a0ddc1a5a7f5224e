"""Which tokens of a packed stream attend to which: its rows cut into segments."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.engine.layout import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Queries that attend together, to keys of which they are the last."""

    queries: slice
    keys: tuple[slice, ...]  # joined in this order
    bias: Float[Tensor, "Q K"] | None  # -inf where a key is not seen; None: plain causal


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
    """Return the segments of a stream with the masks of those whose keys are joined."""
    found = []
    for queries, keys in segments(groups):
        count = queries.stop - queries.start
        seen = sum(part.stop - part.start for part in keys)
        bias = None
        if seen > count:
            bias = torch.full((count, seen), -torch.inf, dtype=dtype).triu_(seen - count + 1)
        found.append(Segment(queries=queries, keys=keys, bias=bias))
    return found
