"""Reward-model losses: each pair's loss from the two scores a reward model gave."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
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


def davidson_loss(
    *,
    chosen_rewards: Float[Tensor, " B"],
    rejected_rewards: Float[Tensor, " B"],
    tied: Bool[Tensor, " B"],
    nu: Float[Tensor, ""],
) -> Float[Tensor, " B"]:
    """Return -log probability in nats of what the rater said: chosen won, or a tie.

    With d = chosen - rejected, win, tie and loss are as e^(d/2) : nu : e^(-d/2). A tie is
    likeliest at equal scores, where its probability is nu / (2 + nu); nu 0 is Bradley–Terry.

    Args:
        chosen_rewards: score of the chosen response; of either one where tied.
        rejected_rewards: score of the other response.
        tied: which comparisons ended in a tie.
        nu: how common ties are, >= 0; a tensor, so that it can be learnt (as a softplus).

    Raises:
        ValueError: nu is negative.

    Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties".
    """
    if not bool(nu >= 0):
        raise ValueError(f"nu is {nu.item()}. Use a number >= 0; 0 allows no ties.")
    gap = chosen_rewards - rejected_rewards
    size = gap.abs()
    log_total = size / 2 + torch.log1p(nu * torch.exp(-size / 2) + torch.exp(-size))
    return log_total - torch.where(tied, nu.log(), gap / 2)


def rao_kupper_loss(
    *,
    chosen_rewards: Float[Tensor, " B"],
    rejected_rewards: Float[Tensor, " B"],
    tied: Bool[Tensor, " B"],
    theta: Float[Tensor, ""],
) -> Float[Tensor, " B"]:
    """Return -log probability in nats of what the rater said, when small gaps are not noticed.

    With d = chosen - rejected, win is sigmoid(d - log theta), loss sigmoid(-d - log theta), a tie
    the rest: (theta^2 - 1) * win * loss. Equal scores tie with (theta - 1) / (theta + 1); theta 1
    is Bradley–Terry.

    Args:
        chosen_rewards: score of the chosen response; of either one where tied.
        rejected_rewards: score of the other response.
        tied: which comparisons ended in a tie.
        theta: how large a gap must be to be noticed, >= 1; a tensor, so that it can be learnt
            (as 1 + a softplus).

    Raises:
        ValueError: theta is below 1.

    Source: Rao and Kupper 1967, "Ties in paired-comparison experiments".
    """
    if not bool(theta >= 1):
        raise ValueError(f"theta is {theta.item()}. Use a number >= 1; 1 allows no ties.")
    gap = chosen_rewards - rejected_rewards
    log_win = F.logsigmoid(gap - theta.log())
    log_loss = F.logsigmoid(-gap - theta.log())
    log_tie = torch.log((theta - 1) * (theta + 1)) + log_win + log_loss
    return -torch.where(tied, log_tie, log_win)


def initial_nu(tie_share: float) -> float:
    """Return Davidson's nu at which equal scores tie with probability `tie_share`: 2t / (1 - t).

    A fifth of ties gives 0.5.

    Args:
        tie_share: share of comparisons that ended in a tie, >= 0 and below 1.

    Raises:
        ValueError: tie_share is outside its range.
    """
    _require_share(tie_share)
    return 2 * tie_share / (1 - tie_share)


def initial_theta(tie_share: float) -> float:
    """Return Rao and Kupper's theta at which equal scores tie with probability `tie_share`.

    (1 + t) / (1 - t): a fifth of ties gives 1.5.

    Args:
        tie_share: share of comparisons that ended in a tie, >= 0 and below 1.

    Raises:
        ValueError: tie_share is outside its range.
    """
    _require_share(tie_share)
    return (1 + tie_share) / (1 - tie_share)


def _require_share(tie_share: float) -> None:
    if not 0 <= tie_share < 1:
        raise ValueError(f"tie_share is {tie_share}. Use a share >= 0 and below 1.")
