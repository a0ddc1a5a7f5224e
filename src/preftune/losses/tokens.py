"""Losses that look inside a response: which own tokens count, and how much.

Shared names: `logprobs` holds one log-prob in nats per token; `mask` is True on the model's own
tokens, wherever they stand in the row, and what the other positions hold is never read.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_mean_nll(
    *, logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Return the mean negative log-likelihood of each response in nats per own token.

    -1/n sum_t log p_t. A uniform model over V tokens gives log V whatever the length.

    Args:
        logprobs: log p of each token.
        mask: which tokens are the model's own.

    Raises:
        ValueError: a row has no own token.

    Source: Pang et al. 2024 (IRPO), arXiv:2404.19733, the NLL term of its loss.
    """
    return -_own(logprobs, mask).sum(-1) / _lengths(mask)


def ld_logps(
    *,
    logprobs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    other_lengths: Int[Tensor, " B"],
    alpha: float,
) -> Float[Tensor, " B"]:
    """Return the length-desensitised log-prob of each response in nats: head + alpha * tail.

    The head is the first min(n, n_other) own tokens, the tail what this response has beyond them.
    alpha 1 is the plain sum, so the loss is DPO; the shorter of the two is always its plain sum.
    Policy and reference must both go through here, else step 0 does not start at log 2.

    Args:
        logprobs: log p of each token, under the policy or under the reference.
        mask: which tokens are the model's own.
        other_lengths: number of own tokens of the other response of each pair.
        alpha: weight of the tail, 0..1; 0 drops it.

    Raises:
        ValueError: alpha is outside 0..1.

    Source: Liu et al. 2024 (LD-DPO), arXiv:2409.06411.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}. Use 0 (drop the tail) to 1 (plain DPO).")
    own = _own(logprobs, mask)
    in_head = mask.cumsum(-1) <= other_lengths.unsqueeze(-1)
    return torch.where(in_head, own, alpha * own).sum(-1)


def sampo_keep(
    *, mask: Bool[Tensor, "B T"], other_lengths: Int[Tensor, " B"], seeds: Sequence[int]
) -> Bool[Tensor, "B T"]:
    """Return which own tokens of each response SamPO keeps: min(n, n_other) drawn evenly.

    Drawn without replacement, in a way that depends on the row's seed alone and not on its
    neighbours or its padding. Draw once and use it for policy and reference; each kept sum is
    then min(n, n_other) / n of the whole on average. The shorter response keeps all its tokens.

    Args:
        mask: which tokens are the model's own.
        other_lengths: number of own tokens of the other response of each pair.
        seeds: one per row, for instance made of the run's seed, the epoch and the pair's number.

    Raises:
        ValueError: there is not one seed per row.

    Source: Lu et al. 2024 (SamPO), arXiv:2406.10957; one draw for both models is our choice.
    """
    if len(seeds) != len(mask):
        raise ValueError(f"{len(seeds)} seeds for {len(mask)} rows. Give one seed per row.")
    keep = torch.zeros_like(mask)
    for row, seed in enumerate(seeds):
        own = mask[row].nonzero().squeeze(-1)
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
        keep[row, own[order[: int(other_lengths[row])].to(own.device)]] = True
    return keep


def wpo_weight(
    *,
    logprobs: Float[Tensor, "B T"],
    log_collision: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, " B"]:
    """Return how on-policy each response is: exp of the mean of log p_t - log_collision_t.

    It carries no gradient. WPO multiplies a pair's loss by the weights of both its responses. A
    uniform model gives exactly 1; a token likelier than an average draw gives more than 1.

    Args:
        logprobs: log p of each token under the policy.
        log_collision: log sum_v p_v^2 at each position, the log chance that two draws agree.
        mask: which tokens are the model's own.

    Raises:
        ValueError: a row has no own token.

    Source: Zhou et al. 2024 (WPO), arXiv:2406.11827, equation 2 with its alignment of weights.
    """
    return (_own(logprobs - log_collision, mask).sum(-1) / _lengths(mask)).exp().detach()


def _own(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    return values.masked_fill(~mask, 0.0)


def _lengths(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " B"]:
    lengths = mask.sum(-1)
    if bool((lengths == 0).any()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"row {row} has no own token, so no mean. Leave such responses out.")
    return lengths
