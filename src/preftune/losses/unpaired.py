"""Losses of single responses, each judged good or bad on its own: no pair is needed.

Shared names: `logratio` is log policy - log reference in nats, summed over own tokens;
`desirable` is True where the response was judged good. beta * logratio is the implied reward.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.losses.direct import require_positive


def kto_kl(mismatched_logratio: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Return KTO's reference point in nats: the mean log ratio, at least 0, with no gradient.

    It estimates KL(policy : reference) from responses that answer other prompts; policy ==
    reference gives exactly 0. A step has one reference point, so give all its rows at once.

    Args:
        mismatched_logratio: log ratio of each prompt with the response of its neighbour.

    Raises:
        ValueError: fewer than 2 rows; one prompt has no neighbour to take a response from.

    Source: Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, section 4; batch-wise as in TRL.
    """
    if len(mismatched_logratio) < 2:
        raise ValueError("KTO needs at least 2 rows in a batch. Raise the batch size.")
    return mismatched_logratio.mean().clamp(min=0.0).detach()


def kto_loss(
    *,
    logratio: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    kl: Float[Tensor, ""],
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Float[Tensor, " B"]:
    """Return the KTO loss of each response: weight * sigmoid(-+ beta * (logratio - kl)).

    The sign is - for a desirable response and + for an undesirable one, so good ones should rise
    above the reference point `kl` and bad ones fall below. Policy == reference gives weight / 2.

    Args:
        logratio: log policy - log reference of each response.
        desirable: which responses were judged good.
        kl: `kto_kl` of the same step.
        beta: pull towards the reference, > 0; 0.1 is usual.
        desirable_weight: > 0. Balance the classes: sources ask for
            desirable_weight * good / (undesirable_weight * bad) of 1 to 4/3, or 1 to 3/2.
        undesirable_weight: > 0.

    Raises:
        ValueError: beta or a weight is not > 0.

    Source: Ethayarajh et al. 2024 (KTO), arXiv:2402.01306, the loss of section 4.
    """
    require_positive(
        beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    gain = beta * (logratio - kl)
    good, bad = torch.sigmoid(-gain), torch.sigmoid(gain)
    return torch.where(desirable, desirable_weight * good, undesirable_weight * bad)


def bco_loss(
    *,
    logratio: Float[Tensor, " B"],
    desirable: Bool[Tensor, " B"],
    beta: float,
    delta: Float[Tensor, ""],
) -> Float[Tensor, " B"]:
    """Return the loss in nats of telling good responses from bad: -log sigmoid(+-(reward - delta)).

    reward = beta * logratio; + for a desirable response. Policy == reference and delta 0 give
    log 2 per response, so a good and a bad one together 2 log 2.

    Args:
        logratio: log policy - log reference of each response.
        desirable: which responses were judged good.
        beta: pull towards the reference, > 0; the paper's run used 0.01.
        delta: shift of the reward, no gradient: the running mean of all rewards seen so far.

    Raises:
        ValueError: beta is not > 0.

    Source: Jung et al. 2024 (BCO), arXiv:2404.04656.
    """
    require_positive(beta=beta)
    gap = beta * logratio - delta
    return -F.logsigmoid(torch.where(desirable, gap, -gap))


def apo_zero_unpaired_loss(
    *, logratio: Float[Tensor, " B"], desirable: Bool[Tensor, " B"], beta: float
) -> Float[Tensor, " B"]:
    """Return the APO-zero loss of each response: sigmoid(-+ beta * logratio).

    The sign is - for a desirable response: good ones should get likelier than under the
    reference, bad ones less likely. It is `kto_loss` with kl 0 and both weights 1; policy ==
    reference gives 1/2.

    Args:
        logratio: log policy - log reference of each response.
        desirable: which responses were judged good.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, equation 7, one side at a time.
    """
    require_positive(beta=beta)
    reward = beta * logratio
    return torch.sigmoid(torch.where(desirable, -reward, reward))
