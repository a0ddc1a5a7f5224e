"""Direct preference losses, with no reward model: logits, what a label asks of them, and DPO.

Shared names: `logps` are summed over response tokens, in nats. `chosen_logratio` and
`rejected_logratio` are log policy - log reference of such sums; policy == reference makes both 0.
A *logit* is the log-odds, in nats, that the policy gives to chosen being the better one. Every
label treatment takes any logit: `logistic_loss(dpo_logit(...))` is DPO, and
`smoothed_loss(r_dpo_logit(...), flip_rate=0.1)` is R-DPO with smoothed labels.
"""

import math

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


def dpo_logit(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the logit of DPO in nats: beta * (chosen_logratio - rejected_logratio).

    0 at policy == reference, so `logistic_loss` of it starts at log 2. Scores of
    `preftune.losses.divergence` may stand in for the log ratios: that is f-DPO.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; larger stays closer, 0.1 is usual.

    Raises:
        ValueError: beta is not > 0.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    require_positive(beta=beta)
    return beta * (chosen_logratio - rejected_logratio)


def dpop_logit(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    beta: float,
    penalty: float,
) -> Float[Tensor, " B"]:
    """Return the logit of DPO-Positive in nats: beta * (c - r - penalty * max(0, -c)).

    c, r are the log ratios of chosen and rejected. The penalty acts only on a pair whose chosen
    response is less likely than under the reference; above it this is `dpo_logit`, with penalty 0
    everywhere. 0 at policy == reference: `logistic_loss` starts at log 2.

    Args:
        chosen_logratio: log policy - log reference of chosen, nats.
        rejected_logratio: the same for rejected.
        beta: pull towards the reference, > 0; 0.3 is usual here.
        penalty: what a nat of lost chosen log-prob costs beside the margin, >= 0; 50 is usual.

    Raises:
        ValueError: beta is not > 0, or penalty is not >= 0.

    Source: Pal et al. 2024 (Smaug), arXiv:2402.13228.
    """
    require_not_negative(penalty=penalty)
    lost = F.relu(-chosen_logratio)
    return dpo_logit(
        chosen_logratio=chosen_logratio - penalty * lost,
        rejected_logratio=rejected_logratio,
        beta=beta,
    )


def logistic_loss(logit: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the loss of a certain label in nats: -log sigmoid(logit).

    Logit 0 gives log 2 with slope -1/2. The losses of a pair and of its swap are the negative
    logs of two probabilities that add to 1.

    Args:
        logit: log-odds that chosen is the better one, nats.

    Source: Bradley and Terry 1952; Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    return -F.logsigmoid(logit)


def soft_label_loss(
    logit: Float[Tensor, " B"], *, probability: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the loss in nats when chosen is better only with a probability p.

    -p log sigmoid(logit) - (1 - p) log sigmoid(-logit). Logit 0 gives log 2 for every p; the
    optimum is logit = log(p / (1 - p)), so p = 0.5 asks for logit 0; p = 1 is `logistic_loss`.

    Args:
        logit: log-odds that chosen is the better one, nats.
        probability: that chosen really is the better one, 0..1.

    Source: Mitchell 2023, "A note on DPO with noisy preferences", equation 3, with eps = 1 - p.
    """
    return -probability * F.logsigmoid(logit) - (1 - probability) * F.logsigmoid(-logit)


def smoothed_loss(logit: Float[Tensor, " B"], *, flip_rate: float) -> Float[Tensor, " B"]:
    """Return the loss in nats when any label may be wrong (conservative DPO, cDPO).

    -(1 - e) log sigmoid(logit) - e log sigmoid(-logit), e = flip_rate. Logit 0 gives log 2; the
    optimum is logit = log((1 - e) / e), so no pair is pushed for ever. It tempers the pull and
    does not undo the noise: `flip_corrected_loss` does.

    Args:
        logit: log-odds that chosen is the better one, nats.
        flip_rate: share of labels that are the wrong way round, 0 <= e < 0.5; 0.1 is usual.

    Raises:
        ValueError: flip_rate is outside 0 <= e < 0.5.

    Source: Mitchell 2023, "A note on DPO with noisy preferences", equation 3.
    """
    _require_flip_rate(flip_rate)
    return -(1 - flip_rate) * F.logsigmoid(logit) - flip_rate * F.logsigmoid(-logit)


def flip_corrected_loss(logit: Float[Tensor, " B"], *, flip_rate: float) -> Float[Tensor, " B"]:
    """Return the loss in nats that random label flips leave unbiased (robust DPO, rDPO).

    [-(1 - e) log sigmoid(logit) + e log sigmoid(-logit)] / (1 - 2e), e = flip_rate. Averaged over
    flips of that rate it is `logistic_loss` of the clean label. Logit 0 gives log 2. It has no
    lower bound: an overstated rate diverges, and a loss that falls below 0 is the sign of it.

    Args:
        logit: log-odds that chosen is the better one, nats.
        flip_rate: share of labels that are the wrong way round, 0 <= e < 0.5; 0.1 is usual.
            Better too small than too large.

    Raises:
        ValueError: flip_rate is outside 0 <= e < 0.5.

    Source: Chowdhury et al. 2024 (rDPO), arXiv:2403.00409.
    """
    _require_flip_rate(flip_rate)
    kept, flipped = F.logsigmoid(logit), F.logsigmoid(-logit)
    return (flip_rate * flipped - (1 - flip_rate) * kept) / (1 - 2 * flip_rate)


def offset_loss(logit: Float[Tensor, " B"], *, offset: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the loss in nats that asks for a gap of `offset`: -log sigmoid(logit - offset).

    Logit 0 gives log(1 + e^offset), which is log 2 only for offset 0.

    Args:
        logit: log-odds that chosen is the better one, nats.
        offset: how far the logit should exceed 0, >= 0; a multiple of the rater's strength.

    Source: Amini et al. 2024 (ODPO), arXiv:2402.10571, equation 6.
    """
    return logistic_loss(logit - offset)


def hinge_loss(logit: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return max(0, 1 - logit): linear until the logit reaches 1, then nothing.

    Logit 0 gives 1. With `dpo_logit` it is the normalised hinge of RSO, which SLiC led to; a pair
    stops teaching once beta * margin is 1.

    Args:
        logit: log-odds that chosen is the better one, nats.

    Source: Liu et al. 2023 (RSO), arXiv:2309.06657.
    """
    return F.relu(1 - logit)


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
    require_positive(beta=beta)
    margin = preference_margin(
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
    )
    return logistic_loss(beta * margin)


def soft_dpo_loss(
    *,
    margin: Float[Tensor, " B"],
    probability: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss in nats when chosen is better only with a probability.

    `soft_label_loss` of beta * margin: the conservative DPO of its authors with eps = 1 - p per
    pair. p = 1 is `dpo_loss`; the optimum is beta * margin = logit p, so p = 0.5 asks the policy
    to stay where it is.

    Args:
        margin: `preference_margin` of each pair, nats.
        probability: that chosen really is the better one, 0..1.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0.

    Source: Mitchell 2023, "A note on DPO with noisy preferences"; arXiv:2305.18290, equation 7.
    """
    require_positive(beta=beta)
    return soft_label_loss(beta * margin, probability=probability)


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
    require_positive(beta=beta)
    return offset_loss(beta * margin, offset=offset)


def require_positive(**settings: float) -> None:
    """Raise ValueError, naming the setting, unless each is finite and > 0."""
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}. Use a finite number > 0.")


def require_not_negative(**settings: float) -> None:
    """Raise ValueError, naming the setting, unless each is finite and >= 0."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}. Use a finite number >= 0.")


def require_finite(**settings: float) -> None:
    """Raise ValueError, naming the setting, unless each is a finite number."""
    for name, value in settings.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}. Use a finite number.")


def _require_flip_rate(flip_rate: float) -> None:
    if not 0 <= flip_rate < 0.5:
        raise ValueError(
            f"flip_rate is {flip_rate}. Use 0 <= flip_rate < 0.5: at a half labels say nothing."
        )
