"""Attention over a packed stream, plugged into transformers' own attention interface.

Every response attends to the prefix it shares and, causally, to itself; never to its siblings.
How that is computed stands in `attention_cpu.py` and `attention_cuda.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from preftune.engine.attention_cpu import cpu_attention
from preftune.engine.layout import Group, Layout
from preftune.engine.segments import Heads, segments, take

NAME = "preftune"


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Let a transformers model use this attention while a packed stream goes through it."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def packed_attention_forward(
    _module: nn.Module,
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 G T D"],
    value: Float[Tensor, "1 G T E"],
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 T H E"], None]:
    """Return the attention of a packed stream; the interface's own signature.

    Raises:
        NotImplementedError: something this attention does not do was asked for: the caller then
            takes the unshared path.
    """
    asked = {
        name for name in ("s_aux", "position_bias", "head_mask") if kwargs.get(name) is not None
    }
    if layout is None or dropout or asked:
        raise NotImplementedError(f"packed attention: no layout, dropout {dropout} or {asked}")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    softcap = kwargs.get("softcap")
    if softcap is not None:
        out = _softcapped(query[0], key[0], value[0], layout.groups, scale, float(softcap))
    elif query.is_cuda:
        from preftune.engine.attention_cuda import varlen_attention

        out = varlen_attention(query[0], key[0], value[0], layout.groups, scale)
    else:
        out = cpu_attention(query[0], key[0], value[0], layout, scale)
    return out.transpose(0, 1)[None], None


AttentionInterface.register(NAME, packed_attention_forward)


def _softcapped(
    query: Heads, key: Heads, value: Heads, groups: tuple[Group, ...], scale: float, cap: float
) -> Heads:
    """Return attention whose scores are squashed by `cap * tanh(score / cap)`, as Gemma 2 does."""
    parts = []
    ratio = query.shape[0] // key.shape[0]
    for queries, keys in segments(groups):
        segment_query = query[:, queries]
        segment_key = take(key, keys).repeat_interleave(ratio, 0)
        segment_value = take(value, keys).repeat_interleave(ratio, 0)
        scores = torch.bmm(segment_query, segment_key.mT).float() * scale
        scores = cap * torch.tanh(scores / cap)
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(hidden.triu(scores.shape[2] - scores.shape[1] + 1), -torch.inf)
        parts.append(torch.bmm(scores.softmax(-1).to(value.dtype), segment_value))
    return torch.cat(parts, dim=1)
