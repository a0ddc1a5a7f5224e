"""From logits to tokens: each row's own number in [0, 1) picks a slice of its distribution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256  # words that are summed before any of them is looked at
FEW = 64  # words that are sorted first; a sure model has all but a little of its mass there
LIKELIEST = 1024  # words that are sorted then


def pick(
    logits: Float[Tensor, "B V"],
    uniforms: Float[Tensor, " B"],
    *,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
) -> tuple[Int[Tensor, " B"], Float[Tensor, "2 B"]]:
    """Return the token whose slice of the distribution holds each row's number, and how likely.

    The `top_k` likeliest tokens are kept, then of these the fewest that hold `top_p` of their mass;
    of equal ones the lower id comes first. Temperature 0 takes the likeliest token and looks at no
    number. The log-probs, in nats, are those at temperature 1 and at the one drawn with (1 if that
    is 0), nothing filtered out.
    """
    if temperature == 0:
        token = logits.argmax(-1)
        return token, _logprobs(logits, token).expand(2, -1)
    probs = torch.softmax(logits if temperature == 1 else _cooled(logits, temperature), -1)
    if top_p == 1.0 and top_k == 0:
        token = _token_at(probs, uniforms.double())
    else:
        token = _filtered(probs, uniforms.double(), top_p, top_k)
    drawn = probs.gather(1, token[:, None])[:, 0].log()
    return token, torch.stack([drawn if temperature == 1 else _logprobs(logits, token), drawn])


def _cooled(logits: Float[Tensor, "B V"], temperature: float) -> Float[Tensor, "B V"]:
    """Return logits over a temperature; the likeliest stay at 0, so that no division overflows."""
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def _logprobs(logits: Float[Tensor, "B V"], token: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    return logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)


def _token_at(probs: Float[Tensor, "B V"], numbers: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return where each number falls in the cumulated probabilities; they need not sum to 1.

    Blocks of words are cumulated first, then the words of one block: a row of 152,000 words costs
    little more than its softmax.
    """
    words = probs.shape[1]
    whole = words // BLOCK * BLOCK
    sums = probs[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < words:
        sums = torch.cat([sums, probs[:, whole:].sum(-1, keepdim=True)], 1)
    block, rest = _slice_at(sums, numbers)
    places = block[:, None] * BLOCK + torch.arange(BLOCK, device=probs.device)
    inside = probs.gather(1, places.clamp_max(words - 1)).masked_fill(places >= words, 0.0)
    return block * BLOCK + _slice_at(inside, rest)[0]


def _slice_at(
    masses: Float[Tensor, "B K"], numbers: Float[Tensor, " B"]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Return in which slice each number falls, and where in that slice, both in [0, 1).

    A slice of no mass is never it.
    """
    ends = masses.cumsum(-1, dtype=torch.float64)
    total = ends[:, -1:]
    at = torch.minimum(numbers[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    slices = torch.searchsorted(ends, at, right=True)
    mass = masses.gather(1, slices)
    within = (at - (ends.gather(1, slices) - mass)) / mass
    return slices[:, 0], within[:, 0].clamp(0.0, 1.0)


def _filtered(
    probs: Float[Tensor, "B V"], numbers: Float[Tensor, " B"], top_p: float, top_k: int
) -> Int[Tensor, " B"]:
    """Return the token of each number when only the likeliest are kept."""
    words = probs.shape[1]
    kept = min(top_k or words, words)
    total = probs.sum(-1, keepdim=True, dtype=torch.float64)
    for count in (kept,) if top_k else (FEW, LIKELIEST, words):
        found, tokens = _likeliest(probs, min(count, words))
        if count >= words or bool((found.sum(-1, keepdim=True) >= top_p * total).all()):
            break
    if top_k:
        total = found.sum(-1, keepdim=True)
    before = found.cumsum(-1) - found
    place, _ = _slice_at(found * (before < top_p * total), numbers)
    return tokens.gather(1, place[:, None])[:, 0]


def _likeliest(
    probs: Float[Tensor, "B V"], count: int
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Return the likeliest words, the lower id first among equals: their probabilities and ids.

    A probability is >= 0, so its bits grow with it; behind them stands the id, counted from the
    last. No two keys are equal, and any number of words comes in the same order.
    """
    words = probs.shape[1]
    bits = probs.contiguous().view(torch.int32).long() << 32
    keys = bits + torch.arange(words - 1, -1, -1, device=probs.device)
    tokens = words - 1 - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
    return probs.gather(1, tokens).double(), tokens
