"""The same packed attention on CUDA: variable-length kernels with separate query and key offsets.

The segments of all rows become one call: queries are the stream itself, keys are gathered so that
every further response has its prefix in front of it. The kernel is causal from the bottom right.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.engine.layout import Group
from preftune.engine.segments import segments

Heads = Float[Tensor, "_ _ _"]  # heads, tokens, width; their numbers differ between arguments


def varlen_attention(
    query: Heads, key: Heads, value: Heads, groups: tuple[Group, ...], scale: float
) -> Heads:
    """Return the attention of a packed stream on a GPU, with flash-attn's variable-length kernel.

    Half precision only, as the kernel; in fp32, or without flash-attn, torch's own attention does
    it segment by segment.
    """
    if query.dtype == torch.float32:
        return segmentwise(query, key, value, groups, scale)
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return segmentwise(query, key, value, groups, scale)
    queries, gathered, query_ends, key_ends = [], [], [0], [0]
    for places, keys in segments(groups):
        queries.append(torch.arange(places.start, places.stop))
        gathered += [torch.arange(part.start, part.stop) for part in keys]
        query_ends.append(query_ends[-1] + places.stop - places.start)
        key_ends.append(key_ends[-1] + sum(part.stop - part.start for part in keys))
    index = torch.cat(gathered).to(query.device)
    offsets = [
        torch.tensor(ends, dtype=torch.int32, device=query.device)
        for ends in (query_ends, key_ends)
    ]
    longest = [max(b - a for a, b in pairwise(ends)) for ends in (query_ends, key_ends)]
    out: Tensor = flash_attn_varlen_func(
        query.transpose(0, 1),
        key[:, index].transpose(0, 1),
        value[:, index].transpose(0, 1),
        *offsets,
        *longest,
        softmax_scale=scale,
        causal=True,
        deterministic=True,
    )
    return out.transpose(0, 1)


def segmentwise(
    query: Heads, key: Heads, value: Heads, groups: tuple[Group, ...], scale: float
) -> Heads:
    """Return the attention segment by segment through torch; any device, any precision."""
    parts = []
    for places, keys in segments(groups):
        own_key = torch.cat([key[:, part] for part in keys], dim=1)
        own_value = torch.cat([value[:, part] for part in keys], dim=1)
        before = own_key.shape[1] - (places.stop - places.start)
        mask = None
        if before:
            mask = torch.ones(
                places.stop - places.start, own_key.shape[1], dtype=torch.bool, device=query.device
            ).tril_(before)
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[None, :, places],
                own_key[None],
                own_value[None],
                attn_mask=mask,
                is_causal=not before,
                scale=scale,
                enable_gqa=key.shape[0] != query.shape[0],
            )[0]
        )
    return torch.cat(parts, dim=1)
