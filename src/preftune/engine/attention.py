"""Attention over a packed stream, plugged into transformers' own attention interface.

Every response attends to the prefix it shares and, causally, to itself; never to its siblings.
The first sequence of a row lies right behind its prefix, so it is plain causal attention over
prefix + rest; each further one is causal attention of its rest over prefix + rest, whose keys are
joined for it. Both directions are torch's flash kernels, but for the backward in bf16, which is
ours: torch's is slower there than in fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from preftune.engine.layout import Group, Layout
from preftune.engine.segments import Segment, cpu_segments, segments

NAME = "preftune"
BLOCK = 256  # queries per block of our backward

Heads = Float[Tensor, "_ _ _"]  # heads, tokens, width; their numbers differ between arguments


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
        parts = layout.remember(query.dtype, lambda: cpu_segments(layout.groups, query.dtype))
        out = _PackedAttention.apply(query[0], key[0], value[0], parts, scale)  # type: ignore[no-untyped-call]  # torch's own
    return out.transpose(0, 1)[None], None


AttentionInterface.register(NAME, packed_attention_forward)


class _PackedAttention(torch.autograd.Function):
    """All segments of all rows of one layer, one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: list[Segment], scale: float
    ) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[-1]).transpose(0, 1)
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        for part in parts:
            out[:, part.queries], sums[:, part.queries] = _flash(
                query[:, part.queries], _take(key, part.keys), _take(value, part.keys), part, scale
            )
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, sums = ctx.saved_tensors
        delta = torch.linalg.vecdot(grad_out.float(), out.float())
        grad_query, grad_key, grad_value = (
            torch.empty_like(query),
            _zeros_like(key),
            _zeros_like(value),
        )
        for part in ctx.parts:
            queries = part.queries
            given = (grad_out[:, queries], query[:, queries])
            kept = (_take(key, part.keys), _take(value, part.keys))
            if query.dtype == torch.bfloat16:
                grads = blockwise_backward(
                    *given, *kept, sums[:, queries], delta[:, queries], ctx.scale
                )
            else:
                grads = _flash_backward(
                    *given, *kept, out[:, queries], sums[:, queries], part, ctx.scale
                )
            grad_query[:, queries] = grads[0]
            _give(grad_key, part.keys, grads[1])
            _give(grad_value, part.keys, grads[2])
        return grad_query, grad_key, grad_value, None, None


def _take(tensor: Heads, places: tuple[slice, ...]) -> Heads:
    parts = [tensor[:, place] for place in places]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _give(grads: Heads, places: tuple[slice, ...], part: Heads) -> None:
    """Add the gradient of joined keys to where they came from."""
    begin = 0
    for place in places:
        length = place.stop - place.start
        grads[:, place] += part[:, begin : begin + length]
        begin += length


def _zeros_like(tensor: Heads) -> Heads:
    """Return zeros laid out token by token, as the projections before the attention are."""
    heads, tokens, width = tensor.shape
    return tensor.new_zeros(tokens, heads, width).transpose(0, 1)


def _flash(
    query: Heads, key: Heads, value: Heads, part: Segment, scale: float
) -> tuple[Heads, Tensor]:
    """Return attention and its log-sum-exp, fp32 `[H T]`."""
    ratio = query.shape[0] // key.shape[0]
    if ratio > 1:
        key, value = key.repeat_interleave(ratio, 0), value.repeat_interleave(ratio, 0)
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None],
        key[None],
        value[None],
        0.0,
        part.bias is None,
        attn_mask=part.bias,
        scale=scale,
    )
    return out[0], logsumexp[0]


def _flash_backward(
    grad_out: Heads,
    query: Heads,
    key: Heads,
    value: Heads,
    out: Heads,
    logsumexp: Tensor,
    part: Segment,
    scale: float,
) -> tuple[Heads, Heads, Heads]:
    heads, ratio = key.shape[0], query.shape[0] // key.shape[0]
    if ratio > 1:
        key, value = key.repeat_interleave(ratio, 0), value.repeat_interleave(ratio, 0)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out[None],
        query[None],
        key[None],
        value[None],
        out[None],
        logsumexp[None].contiguous(),
        0.0,
        part.bias is None,
        attn_mask=part.bias,
        scale=scale,
    )
    grad_query, grad_key, grad_value = (grad[0] for grad in grads)
    if ratio > 1:
        grad_key, grad_value = (
            grad.unflatten(0, (heads, ratio)).sum(1) for grad in (grad_key, grad_value)
        )
    return grad_query, grad_key, grad_value


def blockwise_backward(
    grad_out: Heads,
    query: Heads,
    key: Heads,
    value: Heads,
    logsumexp: Tensor,
    delta: Tensor,
    scale: float,
) -> tuple[Heads, Heads, Heads]:
    """Return the gradients of query, key and value of one segment, by blocks of queries.

    A block stops at its last visible key. Scores and the softmax are fp32, products run in the
    dtype of the inputs. Query heads that share a key head are stacked, so that their gradients
    are summed by the product itself.

    Args:
        grad_out: gradient of the attention's result, `[H Q E]`.
        query: `[H Q D]`.
        key: `[G K D]`, H a multiple of G; the queries are the last of the keys.
        value: `[G K E]`.
        logsumexp: of the scores, `[H Q]`.
        delta: inner product of grad_out and the result, `[H Q]`.
        scale: scores are multiplied by this.

    Source: Dao 2023, FlashAttention-2, arXiv:2307.08691, algorithm 2.
    """
    heads, keys = key.shape[:2]
    ratio, queries = query.shape[0] // heads, query.shape[1]
    grad_query = torch.empty_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for begin in range(0, queries, BLOCK):
        end = min(begin + BLOCK, queries)
        seen = keys - queries + end
        stack = (heads, ratio * (end - begin))
        block_query = query[:, begin:end].reshape(*stack, -1)
        block_grad = grad_out[:, begin:end].reshape(*stack, -1)
        block_key, block_value = key[:, :seen], value[:, :seen]
        weights = torch.baddbmm(
            logsumexp[:, begin:end].reshape(*stack, 1),
            block_query.float(),
            block_key.float().mT,
            beta=-1,
            alpha=scale,
        ).exp_()
        per_head = weights.view(heads, ratio, end - begin, seen)
        per_head[..., keys - queries + begin :].tril_()
        scores = torch.baddbmm(
            delta[:, begin:end].reshape(*stack, 1),
            block_grad.float(),
            block_value.float().mT,
            beta=-1,
        ).mul_(weights)
        weights, scores = weights.to(query.dtype), scores.to(query.dtype)
        grad_value[:, :seen].baddbmm_(weights.mT, block_grad)
        grad_key[:, :seen].baddbmm_(scores.mT, block_query, alpha=scale)
        block = torch.bmm(scores, block_key).mul_(scale)
        grad_query[:, begin:end] = block.view(query.shape[0], end - begin, -1)
    return grad_query, grad_key, grad_value


def _softcapped(
    query: Heads, key: Heads, value: Heads, groups: tuple[Group, ...], scale: float, cap: float
) -> Heads:
    """Return attention whose scores are squashed by `cap * tanh(score / cap)`, as Gemma 2 does."""
    parts = []
    ratio = query.shape[0] // key.shape[0]
    for queries, keys in segments(groups):
        segment_query = query[:, queries]
        segment_key = _take(key, keys).repeat_interleave(ratio, 0)
        segment_value = _take(value, keys).repeat_interleave(ratio, 0)
        scores = torch.bmm(segment_query, segment_key.mT).float() * scale
        scores = cap * torch.tanh(scores / cap)
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(hidden.triu(scores.shape[2] - scores.shape[1] + 1), -torch.inf)
        parts.append(torch.bmm(scores.softmax(-1).to(value.dtype), segment_value))
    return torch.cat(parts, dim=1)
