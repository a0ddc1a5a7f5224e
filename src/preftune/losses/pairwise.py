"""Reward-model losses: each pair's loss from the two scores a reward model gave."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bradley_terry_loss(
    *,
    chosen_rewards: Float[Tensor, " B"],
    rejected_rewards: Float[Tensor, " B"],
    margin: Float[Tensor, " B"] | float = 0.0,
) -> Float[Tensor, " B"]:
    """Return the Bradley–Terry loss of each pair in nats: -log sigmoid(chosen - rejected - margin).

    Equal scores and no margin give log 2 = 0.6931. A constant added to both scores changes
    nothing.

    Args:
        chosen_rewards: score of the chosen response, nats of log-odds.
        rejected_rewards: score of the rejected response.
        margin: how far chosen should be ahead, >= 0; grows with the rater's strength.

    Source: Bradley and Terry 1952; the margin: Touvron et al. 2023 (Llama 2), arXiv:2307.09288,
    equation 2.
    """
    return -F.logsigmoid(chosen_rewards - rejected_rewards - margin)


def soft_bradley_terry_loss(
    *,
    chosen_rewards: Float[Tensor, " B"],
    rejected_rewards: Float[Tensor, " B"],
    probability: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Return the loss in nats when chosen is better only with a probability.

    -p log sigmoid(d) - (1 - p) log sigmoid(-d), d = chosen - rejected. Its optimum is
    d = logit p; p = 1 is `bradley_terry_loss` without margin.

    Args:
        chosen_rewards: score of the chosen response.
        rejected_rewards: score of the rejected response.
        probability: that chosen really is the better one, 0..1.

    Source: Bradley and Terry 1952, cross-entropy with a soft label.
    """
    gap = chosen_rewards - rejected_rewards
    return -probability * F.logsigmoid(gap) - (1 - probability) * F.logsigmoid(-gap)


def centring_penalty(
    *,
    chosen_rewards: Float[Tensor, " B"],
    rejected_rewards: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Return (chosen + rejected)^2 of each pair: added with weight 0.01 it brings mean scores to 0.

    Pair accuracy does not depend on it; only the free constant of the scores does.

    Args:
        chosen_rewards: score of the chosen response.
        rejected_rewards: score of the rejected response.

    Source: Eisenstein et al. 2023, arXiv:2312.09244, section 2.
    """
    return (chosen_rewards + rejected_rewards).square()
