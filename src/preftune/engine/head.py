"""Log-probs of given tokens from hidden states, without the logits of all tokens at once.

The vocabulary is projected for a chunk of tokens, the log-probs of the wanted tokens are picked,
and the chunk is gone. The backward projects the chunk again and turns it into its own gradient in
place; when everything fits into one chunk, that chunk is kept instead of being projected again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24  # logits in one chunk: 64 MiB in fp32


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The last linear layer of a language model and what its architecture does to the logits."""

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None = None
    scale: float = 1.0  # logits are multiplied by this
    softcap: float | None = None  # then squashed: cap * tanh(logit / cap)
    temperature: float = 1.0  # then divided by this

    def logits(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Return fp32 logits of a chunk of hidden states."""
        found = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            found.mul_(self.scale)
        if self.softcap is not None:
            found.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1.0:
            found.div_(self.temperature)
        return found


def head_logprobs(
    head: Head,
    hidden: Float[Tensor, "N D"],
    targets: Int[Tensor, " N"],
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Float[Tensor, " N"]:
    """Return log softmax(logits) at the target of each hidden state, in nats and fp32.

    Args:
        head: the last linear layer.
        hidden: states that predict the targets.
        targets: token ids.
        chunk_elements: most logits that exist at a time; at least one token's.
    """
    chunks = _chunks(len(hidden), len(head.weight), chunk_elements)
    found: Tensor = _HeadLogprobs.apply(hidden, head.weight, head.bias, targets, head, chunks)  # type: ignore[no-untyped-call]  # torch's own
    return found


@torch.no_grad()
def log_collisions(head: Head, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """Return log sum_v p_v^2 of each hidden state's distribution: 0 is certain, -log V is flat."""
    parts = []
    for begin, end in _chunks(len(hidden), len(head.weight), CHUNK_ELEMENTS):
        logits = head.logits(hidden[begin:end])
        parts.append((2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1))
    return torch.cat(parts)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: Head,
        chunks: list[tuple[int, int]],
    ) -> Tensor:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        sums = torch.empty_like(logprobs)
        kept = None
        for begin, end in chunks:
            logits = head.logits(hidden[begin:end])
            sums[begin:end] = logits.logsumexp(-1)
            picked = logits.gather(-1, targets[begin:end, None]).squeeze(-1)
            logprobs[begin:end] = picked - sums[begin:end]
            kept = logits if len(chunks) == 1 and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, bias, targets, sums, kept)
        ctx.head, ctx.chunks = head, chunks
        return logprobs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, sums, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        for begin, end in ctx.chunks:
            logits = ctx.head.logits(hidden[begin:end]) if kept is None else kept
            slope = _to_logit_grad_(
                logits, targets[begin:end], sums[begin:end], grad[begin:end], ctx.head
            ).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[begin:end])
            if grad_weight is not None:
                if begin == 0:
                    torch.mm(slope.t(), hidden[begin:end], out=grad_weight)
                else:
                    grad_weight.addmm_(slope.t(), hidden[begin:end])
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _to_logit_grad_(
    logits: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    sums: Float[Tensor, " N"],
    grad: Float[Tensor, " N"],
    head: Head,
) -> Float[Tensor, "N V"]:
    """Turn logits into grad * d logprob / d (output of the linear layer), in place."""
    bend = None
    if head.softcap is not None:
        bend = 1 - (logits * (head.temperature / head.softcap)).square_()
    slope = logits.sub_(sums[:, None]).exp_().mul_(-grad[:, None])
    slope.scatter_add_(-1, targets[:, None], grad[:, None])
    if bend is not None:
        slope.mul_(bend)
    factor = head.scale / head.temperature
    return slope.mul_(factor) if factor != 1.0 else slope


def _chunks(tokens: int, vocabulary: int, elements: int) -> list[tuple[int, int]]:
    size = max(1, elements // vocabulary)
    return [(begin, min(begin + size, tokens)) for begin in range(0, tokens, size)] or [(0, 0)]
