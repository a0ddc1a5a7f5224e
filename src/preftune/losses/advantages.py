"""How much better each token or response did than expected: what a policy gradient multiplies.

Shared names: `mask` [B T] is True on the model's own tokens; it may have holes, the turns of users
and tools. What other positions hold is never read, and results are 0 there. In groups, axis P is
prompts and G the responses of each; `scored` is False where the grader gave no number: such a
response gets 0 and counts in no mean. Nothing here carries a gradient.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftune.losses.direct import require_not_negative, require_positive

VARIANCE_FLOOR = 1e-8  # added to a variance before its root, as in public PPO code


def shaped_rewards(
    *,
    scores: Float[Tensor, " B"],
    kl: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    kl_coef: float,
) -> Float[Tensor, "B T"]:
    """Return the reward of each own token: -kl_coef * kl, and the score on top of the last one.

    A row sums to score - kl_coef * (sum of its kl): that is the reward of a whole response in RLOO
    and GRPO. A row without own tokens, an unscored response for one, is all 0.

    Args:
        scores: of each response; subtract a penalty for a missing end before.
        kl: log policy - log reference of each token (`kl_k1`) under the policy that drew it.
        mask: which tokens are the model's own.
        kl_coef: price of a nat, >= 0; 0.05 is usual. 0 leaves the policy without a leash.

    Raises:
        ValueError: kl_coef is not >= 0.

    Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, equation 2; Ziegler et al. 2019,
    arXiv:1909.08593.
    """
    require_not_negative(kl_coef=kl_coef)
    is_last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)
    return torch.where(is_last, scores.unsqueeze(-1), 0.0) - (kl_coef * kl).masked_fill(~mask, 0.0)


def rewards_to_go(
    *, rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return, at each own token, the sum of its own and all later rewards of the row.

    Rewards (-0.005, 0.01, 1.485) give (1.49, 1.495, 1.485).

    Args:
        rewards: of each token.
        mask: which tokens are the model's own.
    """
    own = rewards.masked_fill(~mask, 0.0)
    return own.flip(-1).cumsum(-1).flip(-1).masked_fill(~mask, 0.0)


def gae(
    *,
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Return generalised advantages and returns (advantage + value) of each own token.

    delta = reward + gamma * (value of the next own token, 0 at the end) - value; advantage = delta
    + gamma * gae_lambda * (advantage of the next own token). Foreign turns take no time. gae_lambda
    1 with gamma 1 is (sum of rewards to come) - value, gae_lambda 0 is delta.

    Args:
        rewards: of each token, `shaped_rewards`.
        values: what the value model expected at each token when the responses were drawn.
        mask: which tokens are the model's own.
        gamma: discount per own token, 0..1; 1 is usual for language.
        gae_lambda: how far it looks ahead, 0..1; 0.95 is usual.

    Raises:
        ValueError: gamma or gae_lambda is outside 0..1.

    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16.
    """
    if not (0 <= gamma <= 1 and 0 <= gae_lambda <= 1):
        raise ValueError(f"gamma is {gamma}, gae_lambda {gae_lambda}. Use numbers in 0..1.")
    reward, value = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(value)
    next_value, next_advantage = torch.zeros_like(value[:, 0]), torch.zeros_like(value[:, 0])
    for t in reversed(range(mask.shape[-1])):
        delta = reward[:, t] + gamma * next_value - value[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        next_value = torch.where(mask[:, t], value[:, t], next_value)
        advantages[:, t] = advantage.masked_fill(~mask[:, t], 0.0)
    return advantages, advantages + value


def whiten(*, values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return values moved and scaled to mean 0 and standard deviation 1 over own tokens.

    The variance divides by n - 1; 1e-8 is added to it. Give all own tokens of the optimiser step
    at once. A lone token gives 0, so do equal values.

    Args:
        values: one number per token.
        mask: which tokens are the model's own.

    Source: Huang et al. 2024, "The N+ implementation details of RLHF with PPO", arXiv:2403.17031.
    """
    mean, scale = _mean_and_scale(values[mask])
    return ((values - mean) * scale).masked_fill(~mask, 0.0)


def whiten_keeping_mean(
    *, values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return values scaled to standard deviation 1 over own tokens around the mean they had.

    For rewards, whose level means something. It is `whiten` plus the mean; a lone token stays.

    Args:
        values: one number per token.
        mask: which tokens are the model's own.

    Source: Ziegler et al. 2019, arXiv:1909.08593, in its authors' code (which divides by n).
    """
    mean, scale = _mean_and_scale(values[mask])
    return ((values - mean) * scale + mean).masked_fill(~mask, 0.0)


def rloo_advantages(
    *, rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"]
) -> Float[Tensor, "P G"]:
    """Return each reward less the mean of the others of its group (leave one out).

    Without bias: the baseline of a response does not depend on it. (1, 0, 0, 1) gives +-2/3. A
    constant added to a group changes nothing; a group with fewer than 2 scored gives 0.

    Args:
        rewards: score - kl_coef * KL of each whole response.
        scored: which responses have a reward.

    Raises:
        ValueError: groups of one response.

    Source: Ahmadian et al. 2024 (RLOO), arXiv:2402.14740.
    """
    centred, count = _centred(rewards, scored)
    return centred * count / (count - 1).clamp(min=1.0)


def grpo_advantages(
    *, rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"], eps: float = 1e-4
) -> Float[Tensor, "P G"]:
    """Return (reward - mean of the group) / (standard deviation of the group + eps).

    The variance divides by n - 1. (1, 0, 0, 1) gives +-0.8659; equal rewards and groups with fewer
    than 2 scored give exactly 0. Dividing makes groups count alike that hardly differ inside.

    Args:
        rewards: of each response.
        scored: which responses have a reward.
        eps: added to the standard deviation, > 0.

    Raises:
        ValueError: groups of one response, or eps is not > 0.

    Source: Shao et al. 2024 (GRPO), arXiv:2402.03300, section 4.1.2.
    """
    require_positive(eps=eps)
    centred, count = _centred(rewards, scored)
    variance = centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1.0)
    return centred / (variance.sqrt() + eps)


def dr_grpo_advantages(
    *, rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"]
) -> Float[Tensor, "P G"]:
    """Return each reward less the mean of its group: GRPO without the division.

    (1, 0.5, -1) gives (0.8333, 0.3333, -1.1667), (G - 1) / G of what RLOO gives.

    Args:
        rewards: of each response.
        scored: which responses have a reward.

    Raises:
        ValueError: groups of one response.

    Source: Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.
    """
    return _centred(rewards, scored)[0]


def reinforce_plus_plus_advantages(
    *,
    scores: Float[Tensor, " B"],
    kl: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    kl_coef: float,
) -> Float[Tensor, "B T"]:
    """Return score - kl_coef * (KL from this token on) of each own token, whitened over all.

    Needs no group and no value model: the batch is the baseline, so give the whole step at once.
    Without KL, a score of 1 on 2 tokens and of 0 on 3 give 1.0954 and -0.7303.

    Args:
        scores: of each response.
        kl: log policy - log reference of each token (`kl_k1`) under the policy that drew it.
        mask: which tokens are the model's own.
        kl_coef: price of a nat, >= 0.

    Raises:
        ValueError: kl_coef is not >= 0.

    Source: Hu et al. 2025 (REINFORCE++), arXiv:2501.03262.
    """
    rewards = shaped_rewards(scores=scores, kl=kl, mask=mask, kl_coef=kl_coef)
    return whiten(values=rewards_to_go(rewards=rewards, mask=mask), mask=mask)


def reinforce_plus_plus_baseline_advantages(
    *,
    rewards: Float[Tensor, "P G"],
    scored: Bool[Tensor, "P G"],
    lengths: Int[Tensor, "P G"],
) -> Float[Tensor, "P G"]:
    """Return reward - mean of the group, whitened over the own tokens of all scored responses.

    All tokens of a response share one number, so each counts as often as it has tokens. Groups
    that do not differ inside pull the others nowhere. One token each, (1, 0, 0, 1) gives +-0.8660.

    Args:
        rewards: of each response.
        scored: which responses have a reward.
        lengths: number of own tokens of each response.

    Raises:
        ValueError: groups of one response.

    Source: Hu et al. 2025 (REINFORCE++), arXiv:2501.03262, its baseline form.
    """
    centred, _ = _centred(rewards, scored)
    tokens = lengths[scored]
    mean, scale = _mean_and_scale(centred[scored].repeat_interleave(tokens))
    return ((centred - mean) * scale).masked_fill(~scored, 0.0)


def _centred(
    rewards: Float[Tensor, "P G"], scored: Bool[Tensor, "P G"]
) -> tuple[Float[Tensor, "P G"], Float[Tensor, "P 1"]]:
    """Return reward - mean of the scored ones of the group, and how many are scored.

    The lowest is taken off first, so that equal rewards of any size give exactly 0.
    """
    if rewards.shape[-1] < 2:
        raise ValueError("groups of one response have no baseline. Draw 2 or more per prompt.")
    lowest = rewards.masked_fill(~scored, torch.inf).amin(-1, keepdim=True)
    above = (rewards - lowest).masked_fill(~scored, 0.0)
    count = scored.sum(-1, keepdim=True).to(rewards.dtype)
    mean = above.sum(-1, keepdim=True) / count.clamp(min=1.0)
    return (above - mean).masked_fill(~scored, 0.0), count


def _mean_and_scale(own: Float[Tensor, " N"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean and 1 / standard deviation; of fewer than 2 numbers the scale is 0."""
    if len(own) == 0:
        return own.new_zeros(()), own.new_zeros(())
    if len(own) == 1:
        return own[0], own.new_zeros(())
    return own.mean(), (own.var() + VARIANCE_FLOOR).rsqrt()
