"""Losses that follow a reward: per token, with what to multiply them by to take a mean.

Shared names: `logprobs` are log p of each drawn token now, `old_logprobs` those of the policy that
drew it; rho = e^(logprobs - old_logprobs) is how much likelier it has become. `mask` [B T] is True
on the model's own tokens. Behind them a loss holds whatever its inputs give: the weights are 0.

A mean is a sum of losses times weights. The weights divide by counts of the whole optimiser step,
so the sums of its micro-batches add up to the loss of the step, however it was cut.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.losses.kl import LOG_RATIO_LIMIT


def log_ratio(
    *, logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return log rho of each token in nats, held to -20..20: no exponential of it overflows.

    0 at the first minibatch of a rollout batch. Held values carry no gradient.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        old_logprobs: the same under the policy that drew it.
    """
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def ppo_loss(
    *,
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "B T"]:
    """Return the clipped loss of each token: max(-A rho, -A clip(rho, 1 - low, 1 + high)).

    Once a token has moved by its clip in the direction its advantage asks for, it pulls no more.
    At rho = 1 the loss is -A with slope -A, that of `reinforce_loss`.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        old_logprobs: the same under the policy that drew it.
        advantages: A of each token.
        clip_low: how far below 1 rho may go, > 0 and at most 1; 0.2 is usual.
        clip_high: how far above 1 rho may go, > 0; 0.2 or 0.28 is usual.

    Raises:
        ValueError: a clip is outside its range.

    Source: Schulman et al. 2017 (PPO), arXiv:1707.06347, equation 7.
    """
    _require_clips(clip_low, clip_high)
    rho = log_ratio(logprobs=logprobs, old_logprobs=old_logprobs).exp()
    clipped_rho = rho.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(-advantages * rho, -advantages * clipped_rho)


def dual_clip_ppo_loss(
    *,
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Float[Tensor, "B T"]:
    """Return `ppo_loss`, at most -A * dual_clip where A < 0.

    PPO has no bound for a bad token that became much likelier; here it stops at rho = dual_clip.
    rho 5, A -2 and dual_clip 3 give 6 instead of 10.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        old_logprobs: the same under the policy that drew it.
        advantages: A of each token.
        clip_low: how far below 1 rho may go, > 0 and at most 1.
        clip_high: how far above 1 rho may go, > 0.
        dual_clip: the largest rho that counts where A < 0, > 1; 3 is usual.

    Raises:
        ValueError: a clip is outside its range.

    Source: Ye et al. 2020, arXiv:1912.09729.
    """
    if not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}. Use a number > 1, for example 3.")
    loss = ppo_loss(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def reinforce_loss(
    *, logprobs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return -A log p of each token; its slope in log p is -A.

    Exact for one step on fresh samples: the expected gradient is that of the expected reward.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        advantages: A of each token; carries no gradient.

    Source: Williams 1992, Machine Learning 8.
    """
    return -advantages * logprobs


def importance_weights(
    *,
    trainer_logprobs: Float[Tensor, "B T"],
    sampler_logprobs: Float[Tensor, "B T"],
    most: float,
) -> Float[Tensor, "B T"]:
    """Return p trainer / p sampler of each token, at most `most`, without a gradient.

    Multiply per-token losses by it where the engine that drew the tokens rounds otherwise than the
    one that trains, or has older weights. Equal log-probs give 1.

    Args:
        trainer_logprobs: log p of each drawn token, by the trainer, before the step.
        sampler_logprobs: the same as the sampler reported it when it drew.
        most: the largest weight, >= 1; 2 is usual.

    Raises:
        ValueError: most is not >= 1.

    Source: Ionides 2008, "Truncated importance sampling".
    """
    if not most >= 1:
        raise ValueError(f"most is {most}. Use a number >= 1, for example 2.")
    ratio = log_ratio(logprobs=trainer_logprobs, old_logprobs=sampler_logprobs)
    return ratio.exp().clamp(max=most).detach()


def approx_kl(
    *, logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return rho - 1 - log rho of each token in nats, without a gradient; never negative.

    Its mean estimates KL(policy that drew : policy now), so how far an update has gone. rho 1.1
    gives 0.0047.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        old_logprobs: the same under the policy that drew it.
    """
    moved = log_ratio(logprobs=logprobs, old_logprobs=old_logprobs).detach()
    return torch.expm1(moved) - moved


def clipped(
    *,
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    clip_low: float,
    clip_high: float,
) -> Bool[Tensor, "B T"]:
    """Return which tokens have moved past their clip, in either direction.

    Args:
        logprobs: log p of each drawn token under the policy as it is.
        old_logprobs: the same under the policy that drew it.
        clip_low: how far below 1 rho may go.
        clip_high: how far above 1 rho may go.
    """
    beyond = torch.expm1(log_ratio(logprobs=logprobs, old_logprobs=old_logprobs))
    return (beyond < -clip_low) | (beyond > clip_high)


def out_of_limit(
    *, logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"]
) -> Bool[Tensor, "B T"]:
    """Return which tokens `log_ratio` had to hold: a healthy run has none.

    Args:
        logprobs: log p of each drawn token under one policy, or under the policy.
        old_logprobs: the same under the other, or under the reference.
    """
    return (logprobs - old_logprobs).abs() > LOG_RATIO_LIMIT


def token_weights(mask: Bool[Tensor, "B T"], *, tokens: int) -> Float[Tensor, "B T"]:
    """Return weights of the mean over all own tokens of the step: every token counts alike.

    Args:
        mask: which tokens are the model's own, in this micro-batch.
        tokens: own tokens of the whole optimiser step, >= 1.

    Raises:
        ValueError: tokens is not >= 1.

    Source: Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.3.
    """
    _require_count(tokens=tokens)
    return mask.float() / tokens


def sequence_token_weights(mask: Bool[Tensor, "B T"], *, sequences: int) -> Float[Tensor, "B T"]:
    """Return weights of the mean over responses of their token means: short tokens count more.

    A row without own tokens weighs nothing.

    Args:
        mask: which tokens are the model's own, in this micro-batch.
        sequences: responses of the whole optimiser step, >= 1.

    Raises:
        ValueError: sequences is not >= 1.

    Source: Shao et al. 2024 (GRPO), arXiv:2402.03300, equation 3.
    """
    _require_count(sequences=sequences)
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    return mask.float() / lengths / sequences


def sequence_sum_weights(mask: Bool[Tensor, "B T"], *, sequences: int) -> Float[Tensor, "B T"]:
    """Return weights of the mean over responses of their token sums: the policy gradient's own.

    Args:
        mask: which tokens are the model's own, in this micro-batch.
        sequences: responses of the whole optimiser step, >= 1.

    Raises:
        ValueError: sequences is not >= 1.

    Source: Ahmadian et al. 2024 (RLOO), arXiv:2402.14740.
    """
    _require_count(sequences=sequences)
    return mask.float() / sequences


def dr_grpo_weights(
    mask: Bool[Tensor, "B T"], *, sequences: int, longest: int
) -> Float[Tensor, "B T"]:
    """Return weights of the mean over responses of (token sum / the longest length allowed).

    One constant for all, so neither short nor long responses are favoured.

    Args:
        mask: which tokens are the model's own, in this micro-batch.
        sequences: responses of the whole optimiser step, >= 1.
        longest: the most own tokens a response may have, >= 1.

    Raises:
        ValueError: sequences or longest is not >= 1.

    Source: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    _require_count(sequences=sequences, longest=longest)
    return mask.float() / (sequences * longest)


def _require_clips(clip_low: float, clip_high: float) -> None:
    if not (0 < clip_low <= 1 and clip_high > 0):
        raise ValueError(
            f"clip_low is {clip_low}, clip_high {clip_high}. Use 0 < clip_low <= 1, clip_high > 0."
        )


def _require_count(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}. Use the count of the whole step, >= 1.")
