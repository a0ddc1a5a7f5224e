"""Pair losses that know how long the two responses are, and IPO in both of its readings.

Lengths count the model's own response tokens, the EOS included, and are at least 1. `c`, `r` are
the log ratios of chosen and rejected (log policy - log reference, summed), `n_w`, `n_l` lengths.
"""

from jaxtyping import Float
from torch import Tensor

from preftune.losses.direct import dpo_logit, require_finite, require_positive


def length_normalised_logit(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the logit of length-normalised DPO in nats: beta * (c / n_w - r / n_l).

    Averages per token in place of sums, so a long response weighs no more than a short one.
    0 at policy == reference: `logistic_loss` of it starts at log 2. With both lengths 1 it is
    `dpo_logit`.

    Args:
        chosen_logratio: log policy - log reference of chosen, summed, nats.
        rejected_logratio: the same for rejected.
        chosen_lengths: own tokens of chosen, >= 1.
        rejected_lengths: own tokens of rejected, >= 1.
        beta: pull towards the reference, > 0; about 5 is usual, since averages are small.

    Raises:
        ValueError: beta is not > 0.

    Source: Lambert et al. 2024 (Tulu 3), arXiv:2411.15124.
    """
    return dpo_logit(
        chosen_logratio=chosen_logratio / chosen_lengths,
        rejected_logratio=rejected_logratio / rejected_lengths,
        beta=beta,
    )


def r_dpo_logit(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    """Return the logit of length-regularised DPO (R-DPO) in nats: beta * m + alpha * (n_w - n_l).

    The part of a preference that length explains is credited to length and not to the policy: with
    alpha the raters' own slope per token, the optimum is the one of raters blind to length.
    At policy == reference the logit is alpha * (n_w - n_l), so `logistic_loss` of it starts at
    log(1 + e^(-alpha * (n_w - n_l))), not at log 2. alpha = 0 is `dpo_logit`.

    Args:
        chosen_logratio: log policy - log reference of chosen, summed, nats.
        rejected_logratio: the same for rejected.
        chosen_lengths: own tokens of chosen, >= 1.
        rejected_lengths: own tokens of rejected, >= 1.
        beta: pull towards the reference, > 0; 0.1 is usual.
        alpha: nats of log-odds per token that raters give to length, any finite number; negative
            when they like short answers. Estimate it from the labels.

    Raises:
        ValueError: beta is not > 0, or alpha is not finite.

    Source: Park et al. 2024 (R-DPO), arXiv:2403.19159.
    """
    require_finite(alpha=alpha)
    logit = dpo_logit(
        chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, beta=beta
    )
    return logit + alpha * (chosen_lengths - rejected_lengths)


def ipo_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    chosen_lengths: Float[Tensor, " B"],
    rejected_lengths: Float[Tensor, " B"],
    tau: float,
) -> Float[Tensor, " B"]:
    """Return the IPO loss on averages per token: (c / n_w - r / n_l - 1 / (2 tau))^2, nats squared.

    Policy == reference gives 1 / (4 tau^2); 0 where the gap of averages is 1 / (2 tau), so a pair
    is never pushed for ever. The target is a summed gap of n / (2 tau) for two responses of n
    tokens: a tau found for `ipo_sum_loss` does not carry over.

    Args:
        chosen_logratio: log policy - log reference of chosen, summed, nats.
        rejected_logratio: the same for rejected.
        chosen_lengths: own tokens of chosen, >= 1.
        rejected_lengths: own tokens of rejected, >= 1.
        tau: pull towards the reference, > 0; 0.1 is usual and asks for 5 nats per token.

    Raises:
        ValueError: tau is not > 0.

    Source: Azar et al. 2023 (IPO), arXiv:2310.12036, equation 17, with averages for sums as its
    authors ran it according to the TRL project.
    """
    return ipo_sum_loss(
        chosen_logratio=chosen_logratio / chosen_lengths,
        rejected_logratio=rejected_logratio / rejected_lengths,
        tau=tau,
    )


def ipo_sum_loss(
    *,
    chosen_logratio: Float[Tensor, " B"],
    rejected_logratio: Float[Tensor, " B"],
    tau: float,
) -> Float[Tensor, " B"]:
    """Return the IPO loss as printed: (c - r - 1 / (2 tau))^2, nats squared.

    Policy == reference gives 1 / (4 tau^2), with gradient -1 / tau on the chosen log ratio; 0 where
    the margin is 1 / (2 tau). Two responses and a reference without preference end at
    p(chosen) = sigmoid(1 / (2 tau)).

    Args:
        chosen_logratio: log policy - log reference of chosen, summed, nats.
        rejected_logratio: the same for rejected.
        tau: pull towards the reference, > 0; 0.1 is usual.

    Raises:
        ValueError: tau is not > 0.

    Source: Azar et al. 2023 (IPO), arXiv:2310.12036, equation 17.
    """
    require_positive(tau=tau)
    return (chosen_logratio - rejected_logratio - 1 / (2 * tau)).square()
