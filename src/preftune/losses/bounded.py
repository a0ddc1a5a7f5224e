"""Pair losses that classify, regress or bound: not -log sigmoid of one logit.

`c`, `r` are the log ratios of chosen and rejected: log policy - log reference, summed over response
tokens, in nats; both are 0 at policy == reference. beta * c and beta * r are implicit rewards.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preftune.losses.direct import dpo_logit, require_finite, require_positive


def exo_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
    flip_rate: float,
) -> Float[Tensor, " B"]:
    """Return the EXO loss of each pair in nats: KL((q, 1 - q) : (1 - e, e)).

    q = sigmoid(beta * (c - r)) is the policy's probability for chosen, e = flip_rate the label's
    for rejected: DPO's cross-entropy with the two sides of the KL exchanged. 0 at
    beta * (c - r) = log((1 - e) / e); policy == reference gives -log 2 - log(e * (1 - e)) / 2,
    which is 2.7612 for e = 0.001.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.1 is usual.
        flip_rate: probability the label leaves to rejected, 0 < e < 0.5; 0.001 is usual.

    Raises:
        ValueError: beta is not > 0, or flip_rate is outside 0 < e < 0.5; at 0 the loss is infinite.

    Source: Ji et al. 2024 (EXO), arXiv:2402.00856, equation 16.
    """
    if not 0 < flip_rate < 0.5:
        raise ValueError(f"flip_rate is {flip_rate}. Use 0 < flip_rate < 0.5, for example 0.001.")
    logit = dpo_logit(
        chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, beta=beta
    )
    chosen_part = logit.sigmoid() * (F.logsigmoid(logit) - math.log1p(-flip_rate))
    rejected_part = (-logit).sigmoid() * (F.logsigmoid(-logit) - math.log(flip_rate))
    return chosen_part + rejected_part


def nca_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the pair loss of noise-contrastive alignment (NCA) in nats.

    -log sigmoid(beta c) - [log sigmoid(-beta c) + log sigmoid(-beta r)] / 2. Policy == reference
    gives 2 log 2 = 1.3863. Unlike DPO it fixes each reward and not only their gap: chosen settles
    at beta c = log 2, rejected falls for ever.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.1 is usual.

    Raises:
        ValueError: beta is not > 0.

    Source: Chen et al. 2024 (NCA), arXiv:2402.05369.
    """
    require_positive(beta=beta)
    chosen, rejected = beta * chosen_logratio, beta * rejected_logratio
    noise = F.logsigmoid(-chosen) + F.logsigmoid(-rejected)
    return -F.logsigmoid(chosen) - 0.5 * noise


def bco_pair_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
    delta: float,
) -> Float[Tensor, " B"]:
    """Return the binary classifier loss of a pair (BCO) in nats.

    -log sigmoid(beta c - delta) - log sigmoid(delta - beta r): chosen should have a reward above
    delta, rejected one below it. Policy == reference and delta 0 give 2 log 2 = 1.3863. One delta
    for all pairs: the caller keeps the running mean of all rewards and gives it as a number.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.01 in the paper's run.
        delta: the reward that parts good from bad, nats, any finite number; 0 at the start.

    Raises:
        ValueError: beta is not > 0, or delta is not finite.

    Source: Jung et al. 2024 (BCO), arXiv:2404.04656.
    """
    require_positive(beta=beta)
    require_finite(delta=delta)
    above, below = beta * chosen_logratio - delta, delta - beta * rejected_logratio
    return -F.logsigmoid(above) - F.logsigmoid(below)


def sppo_hard_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the SPPO loss with certain labels: (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2.

    In nats squared. Policy == reference gives 1 / (2 beta^2); 0 at c = 1/(2 beta), r = -1/(2 beta).
    Hard: the winner's probability is taken as 1 and the loser's as 0.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.001 in the paper, so that targets are 500 nats.

    Raises:
        ValueError: beta is not > 0.

    Source: Wu et al. 2024 (SPPO), arXiv:2405.00675, equation 4.7 with probabilities 1 and 0 and
    eta = 1 / beta.
    """
    require_positive(beta=beta)
    target = 1 / (2 * beta)
    return (chosen_logratio - target).square() + (rejected_logratio + target).square()


def apo_zero_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the APO-zero loss of each pair, 0..2: 1 - sigmoid(beta c) + sigmoid(beta r).

    Chosen goes up and rejected down, each against the reference. Policy == reference gives 1. For
    data whose chosen responses are better than what the model says by itself.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.1 is usual.

    Raises:
        ValueError: beta is not > 0.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, equation 7.
    """
    require_positive(beta=beta)
    return (-beta * chosen_logratio).sigmoid() + (beta * rejected_logratio).sigmoid()


def apo_down_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the APO-down loss of each pair, 0..2: sigmoid(beta c) + 1 - sigmoid(beta (c - r)).

    Both responses go down, rejected further. Policy == reference gives 1, with no gradient on
    chosen. For data whose chosen responses are worse than what the model says by itself.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.1 is usual.

    Raises:
        ValueError: beta is not > 0.

    Source: D'Oosterlinck et al. 2024 (APO), arXiv:2408.06266, equation 8.
    """
    logit = dpo_logit(
        chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, beta=beta
    )
    return (beta * chosen_logratio).sigmoid() + (-logit).sigmoid()


def discopop_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
    tau: float,
) -> Float[Tensor, " B"]:
    """Return the DiscoPOP loss (log-ratio modulated): (1 - g) * -log sigmoid(z) + g * e^(-z).

    z = beta * (c - r), g = sigmoid(z / tau): logistic for a pair the policy has the wrong way
    round, exponential for one it has right. Policy == reference gives (1 + log 2) / 2 = 0.8466.
    Not monotone: there its slope in z is (1 - log 2) / (4 tau) - 3/4, which is > 0 for tau below
    0.102, so with the usual tau the first steps lower the margin of a pair by itself.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.1 is usual.
        tau: width of the change from one to the other, 0 < tau <= 1; 0.05 is usual. Above 1 the
            exponential part outgrows every number on pairs that are far wrong.

    Raises:
        ValueError: beta is not > 0, or tau is outside 0 < tau <= 1.

    Source: Lu et al. 2024 (DiscoPOP), arXiv:2406.08414, equation 5.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau is {tau}. Use 0 < tau <= 1, for example 0.05.")
    logit = dpo_logit(
        chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, beta=beta
    )
    logistic = -F.logsigmoid(logit) * (-logit / tau).sigmoid()
    exponential = torch.exp(F.logsigmoid(logit / tau) - logit)  # g e^(-z) without inf * 0
    return logistic + exponential
