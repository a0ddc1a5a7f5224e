"""DPO under other divergences than the reverse KL (f-DPO): scores in place of log ratios.

A score is f'(policy / reference), shifted to 0 where policy == reference; the shift cancels in
every pair. Any logit takes a score where it takes a log ratio:

    dpo_logit(chosen_logratio=js_score(c), rejected_logratio=js_score(r), beta=0.1)

is DPO under the Jensen-Shannon divergence, and starts at log 2 like DPO. The log ratio itself is
the score of the reverse KL.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MAX_EXPONENT = 80.0  # e^80 = 5.5e34 leaves room for beta and a difference in fp32 and bf16
MAX_EXPONENT_HALF = 11.0  # e^11 = 59,874; the largest fp16 number is 65,504


def forward_kl_score(logratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the score of the forward KL: 1 - e^(-x), x the log ratio in nats.

    0 with slope 1 at policy == reference; at most 1, and very steep below: a response that lost
    5 nats is pulled back with weight e^5 = 148. It is `alpha_score` with alpha 0. The exponent is
    held at 80 (11 in fp16): a response below x = -80 no longer pulls.

    Args:
        logratio: log policy - log reference, summed, nats.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    return alpha_score(logratio, alpha=0.0)


def js_score(logratio: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the score of the Jensen-Shannon divergence in nats: log 2 + log sigmoid(x).

    0 with slope 1/2 at policy == reference; at most log 2, and like x + log 2 far below. It pulls
    half as hard as DPO at the start: beta counts for half.

    Args:
        logratio: log policy - log reference, summed, nats.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    return math.log(2) + F.logsigmoid(logratio)


def alpha_score(logratio: Float[Tensor, " B"], *, alpha: float) -> Float[Tensor, " B"]:
    """Return the score of an alpha divergence: (e^((alpha - 1) x) - 1) / (alpha - 1).

    0 with slope 1 at policy == reference. alpha -> 1 gives the log ratio (reverse KL, plain DPO),
    alpha = 0 is `forward_kl_score`. Some older code has a coefficient a = 1 - alpha: the two agree
    only at 0.5. The exponent is held at 80 (11 in fp16): a response beyond it no longer pulls.

    Args:
        logratio: log policy - log reference, summed, nats.
        alpha: which divergence, < 1; 0.5 is usual.

    Raises:
        ValueError: alpha is not a finite number < 1.

    Source: Wang et al. 2023 (f-DPO), arXiv:2309.16240.
    """
    if not -math.inf < alpha < 1:
        raise ValueError(f"alpha is {alpha}. Use a number < 1; for 1 give `dpo_logit` log ratios.")
    highest = MAX_EXPONENT_HALF if logratio.dtype == torch.float16 else MAX_EXPONENT
    exponent = ((alpha - 1) * logratio).clamp(max=highest)
    return torch.expm1(exponent) / (alpha - 1)
