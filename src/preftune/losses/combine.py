"""Several scores of one response made one: M reward models, B responses, one number each.

Which shapes are bounded: `weighted_sum`, `lowest` and `constraint_gate` reach as far up and down as
their scores do; `mean_minus_variance` as far up and without end down; `soft_and` lies below 0.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def weighted_sum(
    scores: Float[Tensor, "M B"], *, weights: Float[Tensor, " M"]
) -> Float[Tensor, " B"]:
    """Return the sum over models of weight * score.

    Scores 1 and 3 with weights 0.75 and 0.25 give 1.5. Under a leash of `beta` its best policy is
    the reference times exp(weighted sum / beta).

    Args:
        scores: normalised scores, one row per model.
        weights: of each model, any finite number but 0; a negative one counts against.

    Raises:
        ValueError: a weight is 0, infinite or NaN.
    """
    if not bool((weights.isfinite() & (weights != 0)).all()):
        raise ValueError(f"weights are {weights.tolist()}. Use finite numbers other than 0.")
    return (weights[:, None] * scores).sum(0)


def constraint_gate(
    *,
    rewards: Float[Tensor, " B"],
    constraints: Float[Tensor, "C B"],
    thresholds: Float[Tensor, " C"],
    floor: float,
) -> Float[Tensor, " B"]:
    """Return the reward where every constraint reaches its threshold, else less than any reward.

    Below: floor + the worst of (constraint - threshold), so that what fails ranks by how far it
    fails, and under all that passes. Constraint -0.5, threshold 0, floor -5: -5.5.

    Args:
        rewards: what counts once the constraints hold.
        constraints: scores of the models that constrain, one row each.
        thresholds: what each of them must reach.
        floor: no reward is lower; with rewards clipped at 5 it is -5.

    Raises:
        ValueError: a reward is below the floor, or a threshold is not finite.
    """
    if bool((rewards < floor).any()):
        raise ValueError(
            f"a reward of {rewards.min().item():g} is below the floor {floor:g}. Clip rewards."
        )
    if not bool(thresholds.isfinite().all()):
        raise ValueError(f"thresholds are {thresholds.tolist()}. Use finite numbers.")
    worst = (constraints - thresholds[:, None]).min(0).values
    bottom = torch.full_like(rewards, floor)
    failed = torch.minimum(bottom + worst, bottom.nextafter(bottom - math.inf))
    return torch.where(worst >= 0, rewards, failed)


def soft_and(
    scores: Float[Tensor, "M B"],
    *,
    thresholds: Float[Tensor, " M"],
    softness: Float[Tensor, " M"],
) -> Float[Tensor, " B"]:
    """Return the sum over models of log sigmoid((score - threshold) / softness), below 0.

    High only where every score is: one far under its threshold pulls the sum down linearly, one
    far above adds nothing. Scores 1 and -0.5, thresholds 0, softness 1: -1.287339.

    Args:
        scores: normalised scores, one row per model.
        thresholds: where each model is content by half.
        softness: width of the step of each, > 0; towards 0 it becomes a hard AND.

    Raises:
        ValueError: a softness is not above 0.
    """
    if not bool((softness > 0).all()):
        raise ValueError(f"softness is {softness.tolist()}. Use numbers above 0.")
    return F.logsigmoid((scores - thresholds[:, None]) / softness[:, None]).sum(0)


def lowest(scores: Float[Tensor, "M B"]) -> Float[Tensor, " B"]:
    """Return the lowest of the models' scores (worst-case optimisation).

    [1.2, 0.8, 1.0, 0.2] gives 0.2. It is at most the mean, and equal where all agree.

    Source: Coste et al. 2023, arXiv:2310.02743, section 3.
    """
    return scores.min(0).values


def mean_minus_variance(
    scores: Float[Tensor, "M B"], *, variance_coef: float
) -> Float[Tensor, " B"]:
    """Return mean - variance_coef * population variance over the models.

    [1.2, 0.8, 1.0, 0.2] has mean 0.8 and variance 0.14: 0.73 at a coefficient of one half.

    Args:
        scores: of models that were trained alike but for the seed, one row each.
        variance_coef: what disagreement costs, >= 0; 0 gives the mean.

    Raises:
        ValueError: the coefficient is negative or not finite.

    Source: Coste et al. 2023, arXiv:2310.02743, section 3 (uncertainty-weighted optimisation).
    """
    if not 0 <= variance_coef < math.inf:
        raise ValueError(f"variance_coef is {variance_coef}. Use a finite number >= 0.")
    mean = scores.mean(0)
    return mean - variance_coef * (scores - mean).square().mean(0)
