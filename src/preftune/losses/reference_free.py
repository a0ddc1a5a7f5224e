"""Pair losses without a reference: they look at the policy's own log-probs.

`logps` are log p(response | prompt) summed over the model's own tokens, in nats; lengths count
those tokens and are at least 1. With no reference there is no known loss at step 0, except where
the two responses are equally likely.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preftune.losses.direct import require_not_negative, require_positive

MAX_AVERAGE_LOGP = -1e-7  # nats; the odds of a certain response are infinite


def simpo_logit(
    *,
    chosen_logps: Float[Tensor, " B"],
    rejected_logps: Float[Tensor, " B"],
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
    beta: float,
    gamma: float,
) -> Float[Tensor, " B"]:
    """Return the logit of SimPO in nats: beta * (chosen average - rejected average) - gamma.

    The averages are log-probs per token. Equal averages give -gamma, and `logistic_loss` of it
    log(1 + e^gamma).

    Args:
        chosen_logps: log p(chosen | prompt), summed over own tokens, nats.
        rejected_logps: the same for rejected.
        chosen_lengths: own tokens of chosen, >= 1.
        rejected_lengths: own tokens of rejected, >= 1.
        beta: scale of the averages, > 0; 2 to 2.5 is usual.
        gamma: how far the scaled gap should exceed 0, >= 0; 0.5 to 1.5 is usual. It is absolute:
            where another program asks for gamma / beta, multiply its number by beta.

    Raises:
        ValueError: beta is not > 0, or gamma is not >= 0.

    Source: Meng et al. 2024 (SimPO), arXiv:2405.14734, equation 6.
    """
    require_positive(beta=beta)
    require_not_negative(gamma=gamma)
    return beta * (chosen_logps / chosen_lengths - rejected_logps / rejected_lengths) - gamma


def cpo_logit(
    *,
    chosen_logps: Float[Tensor, " B"],
    rejected_logps: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the logit of CPO in nats: beta * (chosen_logps - rejected_logps).

    DPO with a uniform reference. Equal log-probs give 0, and `logistic_loss` of it log 2. The full
    CPO loss adds the chosen response's NLL, weight 1, which the caller supplies.

    Args:
        chosen_logps: log p(chosen | prompt), summed over own tokens, nats.
        rejected_logps: the same for rejected.
        beta: scale of the gap, > 0; 0.1 is usual.

    Raises:
        ValueError: beta is not > 0.

    Source: Xu et al. 2024 (CPO), arXiv:2401.08417, equation 3.
    """
    require_positive(beta=beta)
    return beta * (chosen_logps - rejected_logps)


def orpo_log_odds(
    *,
    chosen_logps: Float[Tensor, " B"],
    rejected_logps: Float[Tensor, " B"],
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Return the logit of ORPO in nats: log odds of chosen - log odds of rejected.

    odds = p / (1 - p), p = e^(average log-prob per token). Equal averages give 0. The full ORPO
    loss is NLL(chosen) + weight * `logistic_loss` of this, weight 0.1 to 0.25; the caller supplies
    the NLL. Averages above -1e-7 count as -1e-7: a certain response has no finite odds.

    Args:
        chosen_logps: log p(chosen | prompt), summed over own tokens, nats, <= 0.
        rejected_logps: the same for rejected.
        chosen_lengths: own tokens of chosen, >= 1.
        rejected_lengths: own tokens of rejected, >= 1.

    Source: Hong et al. 2024 (ORPO), arXiv:2403.07691, equation 7.
    """
    return _log_odds(chosen_logps / chosen_lengths) - _log_odds(rejected_logps / rejected_lengths)


def slic_loss(
    *,
    chosen_logps: Float[Tensor, " B"],
    rejected_logps: Float[Tensor, " B"],
    delta: float,
) -> Float[Tensor, " B"]:
    """Return SLiC-HF's ranking loss in nats: max(0, delta - chosen_logps + rejected_logps).

    0 once chosen is delta nats likelier than rejected; equal log-probs give delta. The form with
    a reference is `hinge_loss` of `dpo_logit`.

    Args:
        chosen_logps: log p(chosen | prompt), summed over own tokens, nats.
        rejected_logps: the same for rejected.
        delta: the gap to reach, nats, >= 0; 1 is usual.

    Raises:
        ValueError: delta is not >= 0.

    Source: Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425.
    """
    require_not_negative(delta=delta)
    return F.relu(delta - chosen_logps + rejected_logps)


def _log_odds(average_logps: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    average = average_logps.clamp(max=MAX_AVERAGE_LOGP)
    return average - _log_one_minus_exp(average)


def _log_one_minus_exp(x: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return log(1 - e^x) for x < 0, exact to rounding near 0 and far below it."""
    return torch.where(x > -math.log(2), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))
