"""Attention over a packed stream, plugged into transformers' own attention interface.

Every response attends to the prefix it shares and, causally, to itself; never to its siblings.
The first sequence of a row lies right behind its prefix, so it is plain causal attention over
prefix + rest; each further one is causal attention of its rest over prefix + rest, whose keys are
joined for it. The forward is torch's flash kernel; the backward of short segments, and of every
segment in bf16, is ours: torch's is several times slower there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from preftune.engine.layout import Group, Layout

NAME = "preftune"
BLOCK = 256  # queries per block of our backward
SHORT = 512  # keys up to which our backward is used in fp32 as well

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
        out = _PackedAttention.apply(query[0], key[0], value[0], layout.groups, scale)  # type: ignore[no-untyped-call]  # torch's own
    return out.transpose(0, 1)[None], None


AttentionInterface.register(NAME, packed_attention_forward)


class _PackedAttention(torch.autograd.Function):
    """All segments of all rows of one layer, one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: tuple[Group, ...], scale: float
    ) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[-1]).transpose(0, 1)
        sums = []
        for queries, keys in segments(groups):
            segment, logsumexp = _flash(
                query[:, queries], _take(key, keys), _take(value, keys), scale
            )
            out[:, queries] = segment
            sums.append(logsumexp)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, *sums = ctx.saved_tensors
        grad_query, grad_key, grad_value = (
            torch.empty_like(query),
            _zeros_like(key),
            _zeros_like(value),
        )
        for (queries, keys), logsumexp in zip(segments(ctx.groups), sums, strict=True):
            grads = _segment_backward(
                grad_out[:, queries],
                query[:, queries],
                _take(key, keys),
                _take(value, keys),
                out[:, queries],
                logsumexp,
                ctx.scale,
            )
            grad_query[:, queries] = grads[0]
            _give(grad_key, keys, grads[1])
            _give(grad_value, keys, grads[2])
        return grad_query, grad_key, grad_value, None, None


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


def _flash(query: Heads, key: Heads, value: Heads, scale: float) -> tuple[Heads, Tensor]:
    """Return attention and its log-sum-exp, fp32 `[H T]`; causal from the bottom right."""
    ratio = query.shape[0] // key.shape[0]
    if ratio > 1:
        key, value = key.repeat_interleave(ratio, 0), value.repeat_interleave(ratio, 0)
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None],
        key[None],
        value[None],
        0.0,
        query.shape[1] == key.shape[1],
        attn_mask=_bottom_right(query, key),
        scale=scale,
    )
    return out[0], logsumexp[0]


def _bottom_right(query: Heads, key: Heads) -> Tensor | None:
    """Return the additive causal mask of queries that are the last of their keys."""
    queries, keys = query.shape[1], key.shape[1]
    if queries == keys:
        return None
    mask = query.new_full((queries, keys), -torch.inf)
    return mask.triu_(keys - queries + 1)


def _segment_backward(
    grad_out: Heads,
    query: Heads,
    key: Heads,
    value: Heads,
    out: Heads,
    logsumexp: Tensor,
    scale: float,
) -> tuple[Heads, Heads, Heads]:
    if query.dtype == torch.bfloat16 or key.shape[1] <= SHORT:
        return blockwise_backward(grad_out, query, key, value, out, logsumexp, scale)
    heads, ratio = key.shape[0], query.shape[0] // key.shape[0]
    if ratio > 1:
        key, value = key.repeat_interleave(ratio, 0), value.repeat_interleave(ratio, 0)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_out[None],
        query[None],
        key[None],
        value[None],
        out[None],
        logsumexp[None],
        0.0,
        query.shape[1] == key.shape[1],
        attn_mask=_bottom_right(query, key),
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
    out: Heads,
    logsumexp: Tensor,
    scale: float,
) -> tuple[Heads, Heads, Heads]:
    """Return the gradients of query, key and value of one segment, by blocks of queries.

    A block stops at its last visible key. Scores and the softmax are fp32, products run in the
    dtype of the inputs. Query heads that share a key head are stacked, so that their gradients
    are summed by the product itself.

    Source: Dao 2023, FlashAttention-2, arXiv:2307.08691, algorithm 2.
    """
    heads, keys = key.shape[:2]
    ratio, queries = query.shape[0] // heads, query.shape[1]
    before = keys - queries  # keys that every query sees
    delta = (grad_out.float() * out.float()).sum(-1)
    grad_query = torch.empty_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    for begin in range(0, queries, BLOCK):
        end = min(begin + BLOCK, queries)
        seen = before + end
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
        weights.view(heads, ratio, end - begin, seen)[..., before + begin :].tril_()
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
