"""Losses whose value depends on the other pairs of the step: AOT and beta-DPO.

The batch is the statistic, so give all pairs of an optimiser step at once: in micro-batches
these functions give other numbers. Label treatments are those of `direct`, on the logit.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preftune.losses.direct import require_not_negative, require_positive

LOWEST_BETA = 1e-3  # beta-DPO never falls below, as in its authors' code
SMALLEST_SPREAD = 1e-8  # all margins equal (step 0): every pair is equally typical


def aot_logit(
    *, policy_gaps: Float[Tensor, " B"], reference_gaps: Float[Tensor, " B"], beta: float
) -> Float[Tensor, " B"]:
    """Return AOT's logits: beta * (sorted policy gaps - sorted reference gaps).

    Row i belongs to the i-th smallest gaps of the batch, not to pair i, so the order of either
    input changes nothing. `direct.logistic_loss` of it is the AOT loss; policy == reference
    gives logits 0, so log 2.

    Args:
        policy_gaps: log p(chosen) - log p(rejected) of each pair under the policy, nats.
        reference_gaps: the same under the reference.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0, or there are fewer than 2 pairs.

    Source: Melnyk et al. 2024 (AOT), arXiv:2406.05882, section 3, paired.
    """
    require_positive(beta=beta)
    _require_two(policy_gaps)
    return beta * (policy_gaps.sort().values - reference_gaps.sort().values)


def aot_unpaired_logit(
    *, chosen_logratio: Float[Tensor, " B"], rejected_logratio: Float[Tensor, " B"], beta: float
) -> Float[Tensor, " B"]:
    """Return unpaired AOT's logits: beta * (sorted chosen - sorted rejected log ratios).

    Row i compares the i-th smallest of each side, so who was paired with whom changes nothing.
    `direct.logistic_loss` of it is the loss; policy == reference gives log 2.

    Args:
        chosen_logratio: log policy - log reference of each good response, nats.
        rejected_logratio: the same of as many bad responses.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0, or there are fewer than 2 responses on a side.

    Source: Melnyk et al. 2024 (AOT), arXiv:2406.05882, section 3, unpaired.
    """
    require_positive(beta=beta)
    _require_two(chosen_logratio)
    return beta * (chosen_logratio.sort().values - rejected_logratio.sort().values)


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginAverage:
    """Running mean and standard deviation of the DPO margins in nats; a run starts at 0 and 0."""

    centre: float = 0.0
    spread: float = 0.0

    def updated(self, margins: Float[Tensor, " B"], *, decay: float) -> "MarginAverage":
        """Return decay * this + (1 - decay) * (mean, standard deviation) of the step's margins.

        The standard deviation divides by B - 1. beta-DPO updates before it uses the average.

        Args:
            margins: (log ratio of chosen) - (log ratio of rejected) of all pairs of the step.
            decay: share of the past that stays, 0..1 without 1; 0.9 is usual.

        Raises:
            ValueError: decay is outside its range, or there are fewer than 2 pairs.

        Source: Wu et al. 2024 (beta-DPO), arXiv:2407.08639; its authors' code.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}. Use 0 (no memory) up to, not including, 1.")
        _require_two(margins)
        seen = margins.detach()
        return MarginAverage(
            centre=decay * self.centre + (1 - decay) * seen.mean().item(),
            spread=decay * self.spread + (1 - decay) * seen.std().item(),
        )


def beta_dpo_keep(
    *, margins: Float[Tensor, " B"], average: MarginAverage, keep_frac: float, seed: int
) -> Bool[Tensor, " B"]:
    """Return which pairs beta-DPO trains on: floor(keep_frac * B), the typical ones more often.

    Drawn without replacement with weights exp(-((margin - centre) / spread)^2 / 2), by adding
    Gumbel noise to the log weights and taking the largest, so that far outliers stay finite.

    Args:
        margins: (log ratio of chosen) - (log ratio of rejected) of all pairs of the step.
        average: the running average, already updated with these margins.
        keep_frac: share of pairs to keep, > 0 and at most 1; 0.8 in the authors' code.
        seed: of the draw, for instance made of the run's seed and the step.

    Raises:
        ValueError: keep_frac is outside its range, or keeps no pair of a batch this small.

    Source: Wu et al. 2024 (beta-DPO), arXiv:2407.08639, its filter; Gumbel top-k: Kool et al.
    2019, arXiv:1903.06059.
    """
    if not 0 < keep_frac <= 1:
        raise ValueError(f"keep_frac is {keep_frac}. Use a share > 0 and at most 1.")
    count = int(keep_frac * len(margins) + 1e-9)  # 0.29 * 100 is 29, not 28
    if count == 0:
        raise ValueError(f"keep_frac {keep_frac} keeps none of {len(margins)} pairs. Use more.")
    distance = (margins.detach().double() - average.centre) / max(average.spread, SMALLEST_SPREAD)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(len(margins), generator=generator, dtype=torch.float64)
    gumbel = -(-uniform.clamp(min=1e-300).log()).log()
    chosen = (gumbel.to(margins.device) - distance.square() / 2).topk(count).indices
    return torch.zeros_like(margins, dtype=torch.bool).index_fill(0, chosen, True)


def beta_dpo_beta(
    *, margins: Float[Tensor, " B"], beta: float, scale: float, centre: float
) -> Float[Tensor, ""]:
    """Return the beta of this step: beta * (1 + scale * (mean margin - centre)), at least 0.001.

    It carries no gradient. Pairs that are further apart than usual get a larger beta, so a
    smaller step away from the reference; scale 0 or margins at their average give beta itself.

    Args:
        margins: (log ratio of chosen) - (log ratio of rejected) of the kept pairs, not times beta.
        beta: pull towards the reference of a typical step, > 0.
        scale: how much the step's margins move it, >= 0; 0.6 in the authors' code.
        centre: running mean of the margins, `MarginAverage.centre`.

    Raises:
        ValueError: beta is not > 0, or scale is negative.

    Source: Wu et al. 2024 (beta-DPO), arXiv:2407.08639, batch-level beta.
    """
    require_positive(beta=beta)
    require_not_negative(scale=scale)
    shifted = beta * (1 + scale * (margins.detach().mean() - centre))
    return shifted.clamp(min=LOWEST_BETA)


def _require_two(values: Float[Tensor, " B"]) -> None:
    if len(values) < 2:
        raise ValueError(
            f"{len(values)} pairs in the batch. Give at least 2: it is compared whole."
        )
