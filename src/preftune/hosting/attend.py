"""The attention of a stream: every reply over its own keys and values, every prompt over its own.

Query heads that share a key head are stacked as queries of that head, so that no key is copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from preftune.hosting.plan import Chunk, Plan, Rows, Sizes

NAME = "preftune-hosting"


def sized(model: Any) -> Sizes:
    """Return what the attention layers of a model keep, from one forward that computes none."""
    first = next(model.parameters())
    found = Sizes(device=first.device)
    with attention_of(model), torch.inference_mode():
        model(
            input_ids=torch.zeros(1, 2, dtype=torch.long, device=first.device),
            attention_mask=torch.empty(1, 1, 1, 1, device=first.device),
            use_cache=False,
            plan=found,
        )
    return found


def attention_forward(
    module: nn.Module,
    query: Float[Tensor, "1 H N D"],
    key: Float[Tensor, "1 G N D"],
    value: Float[Tensor, "1 G N D"],
    _mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    plan: Plan | Sizes | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 N H D"], None]:
    """Return the attention of a stream; the interface's own signature.

    Raises:
        NotImplementedError: something this attention does not do was asked for.
    """
    names = ("s_aux", "position_bias", "head_mask", "softcap")
    asked = {name for name in names if kwargs.get(name) is not None}
    if dropout or asked:
        raise NotImplementedError(f"a stream's attention: dropout {dropout} or {asked}")
    if plan is None:
        raise NotImplementedError("a stream's attention: its model passes nothing on to it")
    if isinstance(plan, Sizes):
        plan.note(module, key, value)
        return torch.zeros_like(query).transpose(1, 2), None
    return attend(plan, module, query, key, value, scaling or query.shape[-1] ** -0.5), None


def attend(
    plan: Plan,
    module: nn.Module,
    query: Float[Tensor, "1 H N D"],
    key: Float[Tensor, "1 G N D"],
    value: Float[Tensor, "1 G N D"],
    scale: float,
) -> Float[Tensor, "1 N H D"]:
    """Write the new keys and values where they belong and return the attention of all tokens."""
    layer = plan.layers[module]
    parts = [_of_rows(rows, layer, query, key, value, scale) for rows in plan.rows]
    parts += [_of_chunk(chunk, layer, query, key, value, scale) for chunk in plan.chunks]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def _of_rows(
    rows: Rows, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Float[Tensor, "b H D"]:
    """Write the new keys and values of replies and return their attention."""
    part = slice(rows.begin, rows.end)
    held = rows.held[:, layer]
    new = torch.stack((key[0, :, part], value[0, :, part])).permute(2, 0, 1, 3)
    held[rows.places, :, :, rows.lengths] = new
    stacked = query[0, :, part].transpose(0, 1).unflatten(1, (key.shape[1], -1))
    found = F.scaled_dot_product_attention(
        stacked, held[:, 0], held[:, 1], attn_mask=rows.bias, scale=scale
    )
    return found.flatten(1, 2)


def _of_chunk(
    chunk: Chunk, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> Float[Tensor, "t H D"]:
    """Write the keys and values of a piece of a prompt and return its attention."""
    part = slice(chunk.begin, chunk.end)
    keys, values = chunk.reading.held[layer].unbind(0)
    keys[:, chunk.start : chunk.stop] = key[0, :, part]
    values[:, chunk.start : chunk.stop] = value[0, :, part]
    ratio = query.shape[1] // key.shape[1]
    found = F.scaled_dot_product_attention(
        query[:, :, part],
        keys[None, :, : chunk.stop].repeat_interleave(ratio, 1),
        values[None, :, : chunk.stop].repeat_interleave(ratio, 1),
        attn_mask=chunk.bias,
        is_causal=chunk.bias is None,
        scale=scale,
    )
    return found[0].transpose(0, 1)


AttentionInterface.register(NAME, attention_forward)


@contextmanager
def attention_of(model: Any) -> Iterator[None]:
    """Let a transformers model use this attention inside the block."""
    config = model.base_model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
