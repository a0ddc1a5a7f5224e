"""Attention over a packed stream on a processor: one node of the graph per layer.

A short row is one product of all its queries with all its keys, siblings masked: small flash calls
reach a fifth of the speed of a plain product. A long row goes segment by segment through torch's
flash kernels: its first sequence lies right behind the prefix, so it is plain causal attention over
prefix + rest; each further one is causal attention of its rest over prefix + rest, whose keys are
joined for it. The backward in bf16 is ours: torch's is slower there than in fp32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from preftune.engine.layout import Layout
from preftune.engine.segments import Heads, Part, Row, Segment, cpu_parts, take

BLOCK = 256  # queries per block of our backward in bf16
ONE_BLOCK = 256  # tokens of a row whose queries are one block
ROW_BLOCK = 128  # queries per block of a longer row


def cpu_attention(query: Heads, key: Heads, value: Heads, layout: Layout, scale: float) -> Heads:
    """Return the attention `[H T E]` of a packed stream.

    Args:
        query: `[H T D]`.
        key: `[G T D]`, H a multiple of G.
        value: `[G T E]`.
        layout: which tokens belong together.
        scale: scores are multiplied by this.
    """
    parts = layout.remember(query.dtype, lambda: cpu_parts(layout.groups, query.dtype))
    out: Tensor = _PackedAttention.apply(query, key, value, parts, scale)  # type: ignore[no-untyped-call]  # torch's own
    return out


class _PackedAttention(torch.autograd.Function):
    """Attention of all parts of all rows of one layer."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: list[Part], scale: float
    ) -> Tensor:
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[-1]).transpose(0, 1)
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        weights: list[Tensor] = []
        for part in parts:
            if isinstance(part, Row):
                weights += _row_forward(query, key, value, part, scale, out)
            else:
                places = part.queries
                kept = (take(key, part.keys), take(value, part.keys))
                out[:, places], sums[:, places] = _flash(query[:, places], *kept, part, scale)
        ctx.save_for_backward(query, key, value, out, sums, *weights)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, sums, *weights = ctx.saved_tensors
        grads = (_like(query), _like(key).zero_(), _like(value).zero_())
        of_rows = iter(weights)
        for part in ctx.parts:
            if isinstance(part, Row):
                _row_backward(grad_out, query, key, value, part, ctx.scale, of_rows, grads)
            else:
                kept = (query, key, value, out, sums)
                _segment_backward(grad_out, *kept, part, ctx.scale, grads)
        return *grads, None, None


def _like(tensor: Heads) -> Heads:
    """Return room laid out token by token, as the projections before the attention are."""
    heads, tokens, width = tensor.shape
    return tensor.new_empty(tokens, heads, width).transpose(0, 1)


def row_blocks(place: slice) -> list[slice]:
    """Return the queries of a row in blocks, each of which sees no key behind its last query."""
    tokens = place.stop - place.start
    size = tokens if tokens <= ONE_BLOCK else ROW_BLOCK
    return [
        slice(begin, min(begin + size, place.stop))
        for begin in range(place.start, place.stop, size)
    ]


def _row_forward(
    query: Heads, key: Heads, value: Heads, row: Row, scale: float, out: Heads
) -> list[Heads]:
    """Write the attention of a row into `out`; return its weights `[G ratio*Q K]`, block by block.

    Query heads that share a key head are stacked (ratio of them for each of G key heads).
    """
    found = []
    heads, start = key.shape[0], row.place.start
    for block in row_blocks(row.place):
        seen = slice(start, block.stop)
        scores = torch.bmm(_stacked(query[:, block], heads), key[:, seen].mT).mul_(scale)
        hidden = row.bias[block.start - start : block.stop - start, : block.stop - start]
        scores.unflatten(1, (-1, len(hidden))).add_(hidden)
        found.append(scores.softmax(-1))
        out[:, block] = torch.bmm(found[-1], value[:, seen]).view(query.shape[0], len(hidden), -1)
    return found


def _row_backward(
    grad_out: Heads,
    query: Heads,
    key: Heads,
    value: Heads,
    row: Row,
    scale: float,
    weights: Iterator[Heads],
    grads: tuple[Heads, Heads, Heads],
) -> None:
    """Write the gradients of a row's queries, keys and values into `grads`."""
    grad_query, grad_key, grad_value = grads
    heads = key.shape[0]
    for block in row_blocks(row.place):
        seen = slice(row.place.start, block.stop)
        weight, given = next(weights), _stacked(grad_out[:, block], heads).contiguous()
        grad_value[:, seen] += torch.bmm(weight.mT, given)
        slope = torch.bmm(given, value[:, seen].mT)
        slope = torch._softmax_backward_data(slope, weight, -1, slope.dtype).mul_(scale)
        queries = torch.bmm(slope, key[:, seen])
        grad_query[:, block] = queries.view(query.shape[0], block.stop - block.start, -1)
        grad_key[:, seen] += torch.bmm(slope.mT, _stacked(query[:, block], heads))


def _stacked(tensor: Heads, heads: int) -> Heads:
    """Return query heads that share a key head behind each other: `[G ratio*Q D]`."""
    return tensor.reshape(heads, -1, tensor.shape[-1])


def _segment_backward(
    grad_out: Heads,
    query: Heads,
    key: Heads,
    value: Heads,
    out: Heads,
    sums: Tensor,
    part: Segment,
    scale: float,
    grads: tuple[Heads, Heads, Heads],
) -> None:
    """Write the gradients of a segment into `grads`; those of its keys and values are added."""
    queries = part.queries
    given = (grad_out[:, queries], query[:, queries])
    kept = (take(key, part.keys), take(value, part.keys))
    if query.dtype == torch.bfloat16:
        delta = torch.linalg.vecdot(given[0].float(), out[:, queries].float())
        found = blockwise_backward(*given, *kept, sums[:, queries], delta, scale)
    else:
        found = _flash_backward(*given, *kept, out[:, queries], sums[:, queries], part, scale)
    grads[0][:, queries] = found[0]
    _give(grads[1], part.keys, found[1])
    _give(grads[2], part.keys, found[2])


def _give(grads: Heads, places: tuple[slice, ...], part: Heads) -> None:
    """Add the gradient of joined keys to where they came from."""
    begin = 0
    for place in places:
        length = place.stop - place.start
        grads[:, place] += part[:, begin : begin + length]
        begin += length


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
