"""Losses of whole conversations: log ratios per own turn, weighted and summed over turns.

Each function gives one log ratio per trajectory, for `direct.dpo_logit`. The turn-summed form
(Xiong et al. 2024, M-DPO, arXiv:2409.02392) needs nothing here: it is DPO on the log ratios
summed over all own tokens, and exact when what users and tools say is fixed by the own tokens.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def sum_by_turn(
    *,
    logratios: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    turn_of_token: Int[Tensor, "B T"],
    turns: int,
) -> Float[Tensor, "B turns"]:
    """Return the log ratio of each own turn in nats, summed over its own tokens.

    User, tool and padding tokens add exactly 0; the sum over turns is the log ratio of the row.

    Args:
        logratios: log policy - log reference of each token.
        mask: which tokens are the model's own.
        turn_of_token: number of the own turn of each own token, from 0; not read elsewhere.
        turns: number of columns to return, more than any turn number of an own token.

    Raises:
        ValueError: an own token belongs to no column.
    """
    column = turn_of_token.masked_fill(~mask, 0)
    if bool(((column < 0) | (column >= turns)).any()):
        raise ValueError(f"a turn number is outside 0..{turns - 1}. Number own turns from 0.")
    own = logratios.masked_fill(~mask, 0.0)
    return own.new_zeros(len(own), turns).scatter_add(-1, column, own)


def dmpo_weights(*, turns: Int[Tensor, " B"], gamma: float) -> Float[Tensor, "B turns"]:
    """Return DMPO's weight of each turn: gamma^t (1 - gamma^(T - t)) / (1 - gamma^T), in float64.

    The first turn weighs 1 and later ones less, all bounded by 1 / (1 - gamma) in sum; gamma 1 is
    (T - t) / T, and a single turn is DPO. Columns from T on are 0; there are max(turns) columns.

    Args:
        turns: T, number of own turns of each trajectory, >= 1.
        gamma: how fast later turns fade, > 0 and at most 1; 0.7 in the authors' code.

    Raises:
        ValueError: gamma is outside its range, or a trajectory has no turn.

    Source: Shi et al. 2024 (DMPO), arXiv:2406.14868, equations 14 and 15 and the authors' code;
    the printed weight lacks gamma^t.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is {gamma}. Use a number > 0 and at most 1.")
    _require_turns(turns)
    t = torch.arange(int(turns.max()), dtype=torch.float64, device=turns.device)
    left = (turns.unsqueeze(-1) - t).clamp(min=0.0)
    total = turns.unsqueeze(-1).double()
    if gamma == 1:
        return left / total
    log_gamma = math.log(gamma)
    return torch.exp(t * log_gamma) * torch.expm1(left * log_gamma) / torch.expm1(total * log_gamma)


def dmpo_logratio(
    *, turn_logratios: Float[Tensor, "B turns"], turns: Int[Tensor, " B"], gamma: float
) -> Float[Tensor, " B"]:
    """Return each trajectory's log ratio in nats with DMPO's weights on its turns.

    `direct.dpo_logit` of a pair of these gives the DMPO loss; a single turn gives DPO. It is an
    approximation, never the exact optimum, but bounds what sheer length can add.

    Args:
        turn_logratios: log ratio of each own turn; columns beyond a row's turns are not read.
        turns: number of own turns of each trajectory, >= 1.
        gamma: how fast later turns fade, > 0 and at most 1; 0.7 in the authors' code.

    Raises:
        ValueError: gamma is outside its range, or `turns` does not fit the columns.

    Source: Shi et al. 2024 (DMPO), arXiv:2406.14868, equations 14 and 15.
    """
    own = _own_turns(turn_logratios, turns)
    weights = dmpo_weights(turns=turns, gamma=gamma).to(own.dtype)
    return (weights * own[:, : weights.shape[-1]]).sum(-1)


def turn_mean_logratio(
    *, turn_logratios: Float[Tensor, "B turns"], turns: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return each trajectory's log ratio in nats per own turn: their mean.

    A shift common to all turns cancels in a pair whatever the two lengths are. There is no
    derivation behind it; a single turn is DPO.

    Args:
        turn_logratios: log ratio of each own turn; columns beyond a row's turns are not read.
        turns: number of own turns of each trajectory, >= 1.

    Raises:
        ValueError: `turns` does not fit the columns.
    """
    return _own_turns(turn_logratios, turns).sum(-1) / turns


def _own_turns(
    turn_logratios: Float[Tensor, "B turns"], turns: Int[Tensor, " B"]
) -> Float[Tensor, "B turns"]:
    _require_turns(turns)
    columns = turn_logratios.shape[-1]
    if int(turns.max()) > columns:
        raise ValueError(f"a trajectory has {int(turns.max())} turns, but there are {columns}.")
    is_own = torch.arange(columns, device=turns.device) < turns.unsqueeze(-1)
    return turn_logratios.masked_fill(~is_own, 0.0)


def _require_turns(turns: Int[Tensor, " B"]) -> None:
    if int(turns.min()) < 1:
        raise ValueError("a trajectory has no own turn. Leave it out: there is nothing to learn.")
