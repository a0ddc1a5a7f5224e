"""Losses of ranked lists: several responses to one prompt, put in order.

Shared names: `scores` of K candidates, in any order; `ranks` give the order, 1 is best; equal
ranks are ties. `mask` is True on real candidates, for lists shorter than K. Tied candidates are
never ordered against each other: a tie has its own loss (`pairwise.davidson_loss`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from preftune.losses.direct import require_positive


def plackett_luce_loss(
    *,
    scores: Float[Tensor, "B K"],
    ranks: Int[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
) -> Float[Tensor, " B"]:
    """Return -log probability in nats of each ranking: best picked first, then best of the rest.

    sum_i [logsumexp over i and all ranked strictly below i - score_i]. With no ties this is the
    Plackett–Luce model: K = 2 is Bradley–Terry, equal scores give ln K!, and the probabilities
    of all K! orders sum to 1. Each tied candidate competes with those below the tie and with none
    of the tie, so a tie for the last place adds 0 (and the value is then no longer the
    probability of one event).

    Args:
        scores: a reward model's score of each candidate, nats of log-odds.
        ranks: place of each candidate, smaller is better, equal is a tie.
        mask: which candidates are real.

    Raises:
        ValueError: a list puts no candidate above another.

    Source: Plackett 1975, "The analysis of permutations"; Luce 1959.
    """
    scores = scores.masked_fill(~mask, 0.0)
    competes = _ranked_below(ranks, mask) | torch.eye(
        scores.shape[-1], dtype=torch.bool, device=scores.device
    )
    rest = scores.unsqueeze(-2).masked_fill(~competes, -torch.inf).logsumexp(-1)
    return (rest - scores).sum(-1)  # padding competes with itself alone, so it adds 0


def pl_dpo_loss(
    *,
    logratio: Float[Tensor, "B K"],
    ranks: Int[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
    beta: float,
) -> Float[Tensor, " B"]:
    """Return the DPO loss of ranked lists in nats: Plackett–Luce on beta * logratio.

    K = 2 is `dpo_loss`; policy == reference gives ln K! for a list of K without ties.

    Args:
        logratio: log policy - log reference of each candidate, summed over own tokens.
        ranks: place of each candidate, smaller is better, equal is a tie.
        mask: which candidates are real.
        beta: pull towards the reference, > 0.

    Raises:
        ValueError: beta is not > 0, or a list puts no candidate above another.

    Source: Rafailov et al. 2023, arXiv:2305.18290, appendix on the Plackett–Luce model.
    """
    require_positive(beta=beta)
    return plackett_luce_loss(scores=beta * logratio, ranks=ranks, mask=mask)


def all_pairs_loss(
    *,
    scores: Float[Tensor, "B K"],
    ranks: Int[Tensor, "B K"],
    mask: Bool[Tensor, "B K"],
) -> Float[Tensor, " B"]:
    """Return each list's mean Bradley–Terry loss in nats over its pairs with a strict order.

    mean of -log sigmoid(score_i - score_j) over i ranked above j. Equal scores give log 2
    whatever K is; K = 2 is Bradley–Terry.

    Args:
        scores: a reward model's score of each candidate, nats of log-odds.
        ranks: place of each candidate, smaller is better, equal is a tie.
        mask: which candidates are real.

    Raises:
        ValueError: a list puts no candidate above another.

    Source: Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, equation 1.
    """
    scores = scores.masked_fill(~mask, 0.0)
    above = _ranked_below(ranks, mask)
    losses = -F.logsigmoid(scores.unsqueeze(-1) - scores.unsqueeze(-2))
    return losses.masked_fill(~above, 0.0).sum((-1, -2)) / above.sum((-1, -2))


def best_of_k_loss(
    *, scores: Float[Tensor, "B K"], best: Int[Tensor, " B"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Return -log probability in nats that the rater's one best is picked: a softmax over K.

    logsumexp(scores) - score_best. Equal scores give ln K; K = 2 is Bradley–Terry.

    Args:
        scores: a reward model's score of each candidate, nats of log-odds.
        best: column of the candidate that was picked.
        mask: which candidates are real.

    Raises:
        ValueError: `best` names a candidate that is not real.

    Source: Ziegler et al. 2019, arXiv:1909.08593, equation 1.
    """
    if not bool(mask.gather(-1, best.unsqueeze(-1)).all()):
        raise ValueError("best names a column where mask is False. Name a real candidate.")
    picked = scores.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    return scores.masked_fill(~mask, -torch.inf).logsumexp(-1) - picked


def _ranked_below(ranks: Int[Tensor, "B K"], mask: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    """Return [b, i, j]: candidate j of list b is ranked strictly below candidate i, both real."""
    real = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    below = (ranks.unsqueeze(-2) > ranks.unsqueeze(-1)) & real
    if not bool(below.any(-1).any(-1).all()):
        row = int((~below.any(-1).any(-1)).nonzero()[0])
        raise ValueError(f"list {row} puts no candidate above another. Leave such lists out.")
    return below
