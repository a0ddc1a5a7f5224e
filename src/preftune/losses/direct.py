"""Direct preference losses: each pair's loss from four summed log-probs, with no reward model.

Shared names: `logps` are summed over response tokens, in nats. The margin is how much more the
policy than the reference prefers chosen to rejected; policy == reference makes it 0.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def preference_margin(
    *,
    policy_chosen_logps: Float[Tensor, " B"],
    policy_rejected_logps: Float[Tensor, " B"],
    reference_chosen_logps: Float[Tensor, " B"],
    reference_rejected_logps: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Return (log ratio of chosen) - (log ratio of rejected) in nats; 0 when policy == reference.

    Args:
        policy_chosen_logps: log p(chosen | prompt), summed over response tokens only.
        policy_rejected_logps: the same for rejected.
        reference_chosen_logps: the same under the frozen reference; carries no gradient.
        reference_rejected_logps: the same for rejected.
    """
    policy_margin = policy_chosen_logps - policy_rejected_logps
    reference_margin = reference_chosen_logps - reference_rejected_logps
    return policy_margin - reference_margin


def dpo_loss(
    *,
    policy_chosen_logps: Float[Tensor, " B"],
    policy_rejected_logps: Float[Tensor, " B"],
    reference_chosen_logps: Float[Tensor, " B"],
    reference_rejected_logps: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss of each pair in nats: -log sigmoid(beta * margin).

    Policy == reference gives log 2 = 0.6931, the loss of the first step of every run; there the
    gradient with respect to the chosen log-prob is -beta / 2.

    Args:
        policy_chosen_logps: log p(chosen | prompt), summed over response tokens only.
        policy_rejected_logps: the same for rejected.
        reference_chosen_logps: the same under the frozen reference; carries no gradient.
        reference_rejected_logps: the same for rejected.
        beta: pull towards the reference, > 0; larger stays closer, 0.1 is usual.

    Raises:
        ValueError: beta is not > 0; with 0 the loss is the constant log 2 and nothing is learnt.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    _require_positive(beta)
    margin = preference_margin(
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    return -F.logsigmoid(beta * margin)


def soft_dpo_loss(
    *,
    margin: Float[Tensor, " B"],
    probability: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss in nats when chosen is better only with a probability.

    -p log sigmoid(beta * margin) - (1 - p) log sigmoid(-beta * margin): the conservative DPO of
    its authors with eps = 1 - p per pair. p = 1 is `dpo_loss`; the optimum is beta * margin =
    logit p, so p = 0.5 asks the policy to stay where it is.

    Args:
        margin: `preference_margin` of each pair, nats.
        probability: that chosen really is the better one, 0..1.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0.

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; arXiv:2305.18290, equation 7.
    """
    _require_positive(beta)
    win, lose = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
    return -probability * win - (1 - probability) * lose


def offset_dpo_loss(
    *,
    margin: Float[Tensor, " B"],
    offset: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss in nats that asks for a gap of `offset`: -log sigmoid(beta * m - offset).

    Offset 0 is `dpo_loss`; at policy == reference the loss is log(1 + e^offset), not log 2.

    Args:
        margin: `preference_margin` of each pair, nats.
        offset: how far beta * margin should exceed 0, >= 0; a multiple of the rater's strength.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0.

    Source: Amini et al. 2024 (ODPO), arXiv:2402.10571, equation 6.
    """
    _require_positive(beta)
    return -F.logsigmoid(beta * margin - offset)


def _require_positive(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta is {beta}. Use a number > 0: at 0 the loss is constant.")
