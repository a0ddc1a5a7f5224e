"""Which tokens of a packed stream attend to which: its rows, or the segments they are cut into."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.engine.layout import Group, triangle

LONGEST_ROW = 512  # tokens; longer rows go through flash kernels, which keep no weights
WASTE = 2  # a row is one product when it computes at most this many times the weights needed

Heads = Float[Tensor, "_ _ _"]  # heads, tokens, width; their numbers differ between arguments


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Queries that attend together, to keys of which they are the last."""

    queries: slice
    keys: tuple[slice, ...]  # joined in this order
    bias: Float[Tensor, "Q K"] | None  # -inf where a key is not seen; None: plain causal


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """All responses to one prompt, in one masked product."""

    place: slice
    bias: Float[Tensor, "T T"]  # -inf where a key is not seen


Part = Segment | Row


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


def cpu_parts(groups: tuple[Group, ...], dtype: torch.dtype) -> list[Part]:
    """Return a stream cut for a processor: short rows whole, the others into segments."""
    found: list[Part] = []
    for group in groups:
        if dtype == torch.float32 and _whole(group):
            found.append(_row(group, dtype))
        else:
            found += [_segment(*part, dtype) for part in segments((group,))]
    return found


def take(tensor: Heads, places: tuple[slice, ...]) -> Heads:
    """Return the tokens at these places, joined."""
    parts = [tensor[:, place] for place in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _whole(group: Group) -> bool:
    tokens = group.prefix + sum(group.rests)
    seen = triangle(group.prefix) + sum(
        group.prefix * rest + triangle(rest) for rest in group.rests
    )
    return tokens <= LONGEST_ROW and triangle(tokens) <= WASTE * seen


def _row(group: Group, dtype: torch.dtype) -> Row:
    tokens = group.prefix + sum(group.rests)
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1)
    begin = group.prefix
    for rest in group.rests:
        hidden[begin + rest :, begin : begin + rest] = True
        begin += rest
    bias = torch.zeros(tokens, tokens, dtype=dtype).masked_fill_(hidden, -torch.inf)
    return Row(place=slice(group.start, group.start + tokens), bias=bias)


def _segment(queries: slice, keys: tuple[slice, ...], dtype: torch.dtype) -> Segment:
    count = queries.stop - queries.start
    seen = sum(part.stop - part.start for part in keys)
    bias = None
    if seen > count:
        bias = torch.full((count, seen), -torch.inf, dtype=dtype).triu_(seen - count + 1)
    return Segment(queries=queries, keys=keys, bias=bias)
