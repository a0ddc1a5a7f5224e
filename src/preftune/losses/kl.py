"""How far a policy is from its reference, estimated at each token it drew, in nats.

Shared names: `policy_logprobs` and `reference_logprobs` are log p of each drawn token under the two
models, at the temperature that was drawn with. Rows hold a response's own tokens from the left and
0 in both behind them, so every estimate is 0 there. x = log policy - log reference.

Summed over the tokens of a reply, and averaged over fresh replies, they estimate KL(policy :
reference) in nats per reply: k1 and k3 without bias, k2 with a little.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.losses.direct import require_finite, require_positive

LOG_RATIO_LIMIT = 20.0  # nats; e^20 is 4.9e8, so no loss overflows and no batch is lost to a token
MOST_ADAPTED = 0.2  # one rollout batch counts at most as 20 % above or below the target


def kl_k1(
    *, policy_logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return the estimator k1 of each token in nats: x = log policy - log reference.

    Without bias and of either sign; it belongs into a reward. As a loss on fixed samples it is
    useless: its expected gradient is exactly 0.

    Args:
        policy_logprobs: log p of each drawn token under the policy that drew it.
        reference_logprobs: the same under the frozen reference.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return policy_logprobs - reference_logprobs


def kl_k2(
    *, policy_logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return the estimator k2 of each token in nats: x^2 / 2, never negative.

    Its value is biased, but as a loss on fresh samples its expected gradient is exactly that of
    KL(policy : reference). x = 1 gives 0.5.

    Args:
        policy_logprobs: log p of each drawn token under the policy that drew it.
        reference_logprobs: the same under the frozen reference.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    return (policy_logprobs - reference_logprobs).square() / 2


def kl_k3(
    *, policy_logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return the estimator k3 of each token in nats: e^(-x) - 1 + x, never negative.

    Without bias, and it varies less than k1. Nothing is clamped. As a loss on fresh samples its
    expected gradient is that of KL(reference : policy), the other way round:
    `kl_k3_straight_through` mends that. x = 1 gives 1 / e = 0.3679.

    Args:
        policy_logprobs: log p of each drawn token under the policy that drew it.
        reference_logprobs: the same under the frozen reference.

    Source: Schulman 2020, "Approximating KL divergence"; as a loss: Shao et al. 2024 (GRPO),
    arXiv:2402.03300, equation 4.
    """
    x = policy_logprobs - reference_logprobs
    return torch.expm1(-x) + x


def kl_k3_straight_through(
    *, policy_logprobs: Float[Tensor, "B T"], reference_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return k3 of each token in nats, with the gradient of k2: what to use as a loss.

    The value is unbiased and never negative, and the expected gradient on fresh samples is exactly
    that of KL(policy : reference). x is held to -20..20; beyond, the pull stays at 20 instead of
    vanishing. The gradient goes to the policy alone.

    Args:
        policy_logprobs: log p of each drawn token under the policy.
        reference_logprobs: the same under the frozen reference.
    """
    x = (policy_logprobs - reference_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    pull = x * policy_logprobs  # its gradient is x, that of x^2 / 2
    return torch.expm1(-x) + x + (pull - pull.detach())


def adapted_kl_coef(
    *, kl_coef: float, kl: float, target: float, replies: int, horizon: int
) -> float:
    """Return the KL coefficient for the next rollout batch: larger when KL is above its target.

    kl_coef * (1 + e * replies / horizon), e = kl / target - 1 held to -0.2..0.2. KL on target
    leaves it alone; 256 replies of much too large a KL with a horizon of 10,000 multiply it by
    1.00512. A batch of more replies than the horizon counts as one of so many: the coefficient
    stays above 0.

    Args:
        kl_coef: the coefficient so far, > 0; 0.15 is a usual start.
        kl: mean of the replies of this batch, nats per reply; may be a little below 0.
        target: the KL to hold, nats per reply, > 0; 6 is usual.
        replies: how many replies the batch has.
        horizon: replies over which it adapts, >= 1; 10,000 is usual.

    Raises:
        ValueError: kl is not finite, or another argument is not > 0.

    Source: Ziegler et al. 2019, arXiv:1909.08593.
    """
    require_finite(kl=kl)
    require_positive(kl_coef=kl_coef, target=target, replies=float(replies), horizon=float(horizon))
    error = min(max(kl / target - 1, -MOST_ADAPTED), MOST_ADAPTED)
    return kl_coef * (1 + error * min(replies / horizon, 1.0))
