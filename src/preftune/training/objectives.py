"""Every pair objective: what it computes and what it starts at; `loss_table` has what it reads.

The formulas are in `preftune.losses`; each function here only picks what its loss looks at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from preftune.losses.batchwise import (
    aot_logit,
    aot_unpaired_logit,
    beta_dpo_beta,
    beta_dpo_keep,
)
from preftune.losses.bounded import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    discopop_loss,
    exo_loss,
    nca_loss,
    sppo_hard_loss,
)
from preftune.losses.direct import (
    dpo_logit,
    dpop_logit,
    flip_corrected_loss,
    hinge_loss,
    logistic_loss,
    require_positive,
    smoothed_loss,
)
from preftune.losses.divergence import alpha_score, forward_kl_score, js_score
from preftune.losses.length import ipo_loss, ipo_sum_loss, length_normalised_logit, r_dpo_logit
from preftune.losses.reference_free import cpo_logit, orpo_log_odds, simpo_logit, slic_loss
from preftune.losses.tokens import ld_logps, sampo_keep
from preftune.losses.trajectory import dmpo_logratio, sum_by_turn, turn_mean_logratio
from preftune.training.pair_inputs import PairInputs, Side, seed_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The settings of all objectives by name; those that no term reads stay NaN."""

    beta: float = math.nan
    flip_rate: float = math.nan
    tau: float = math.nan
    length_alpha: float = math.nan
    ld_alpha: float = math.nan
    divergence_alpha: float = math.nan
    dpop_penalty: float = math.nan
    simpo_gamma: float = math.nan
    odds_weight: float = math.nan
    slic_delta: float = math.nan
    turn_gamma: float = math.nan
    beta_scale: float = math.nan
    keep_frac: float = math.nan
    margin_decay: float = math.nan


Compute = Callable[[PairInputs, Options], Tensor]  # one number per pair, `[B]`
Init = Callable[[PairInputs, Options], Tensor | float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """One pair objective."""

    compute: Compute
    init: Init | float | None = 0.0  # what it gives where policy == reference; None: without one
    nll_weight: float = 0.0  # of the NLL term that belongs to it
    per_token: bool = False  # rewards are averages per token, not sums
    by_turn: bool = False  # with one turn per response it is `sigmoid`

    def start(self, p: PairInputs, o: Options) -> Tensor | None:
        """Return what it gives each pair where policy == reference, None without a reference."""
        if self.init is None:
            return None
        value = self.init(p, o) if callable(self.init) else self.init
        return torch.zeros_like(p.weights) + value


def sigmoid(p: PairInputs, o: Options) -> Tensor:
    """DPO: the logit that most others are built on."""
    return dpo_logit(**p.logratios, beta=o.beta)


def sigmoid_norm(p: PairInputs, o: Options) -> Tensor:
    """DPO on averages per token."""
    return length_normalised_logit(**p.logratios, **p.lengths, beta=o.beta)


def r_dpo(p: PairInputs, o: Options) -> Tensor:
    """DPO that credits length with its own share of the preference."""
    return r_dpo_logit(**p.logratios, **p.lengths, beta=o.beta, alpha=o.length_alpha)


def dpop(p: PairInputs, o: Options) -> Tensor:
    """DPO that charges extra when chosen falls below the reference."""
    return dpop_logit(**p.logratios, beta=o.beta, penalty=o.dpop_penalty)


def forward_kl(p: PairInputs, o: Options) -> Tensor:
    """DPO under the forward KL."""
    return _dpo_of(
        forward_kl_score(p.chosen.logratio), forward_kl_score(p.rejected.logratio), o.beta
    )


def js(p: PairInputs, o: Options) -> Tensor:
    """DPO under the Jensen-Shannon divergence."""
    return _dpo_of(js_score(p.chosen.logratio), js_score(p.rejected.logratio), o.beta)


def alpha_divergence(p: PairInputs, o: Options) -> Tensor:
    """DPO under an alpha divergence."""
    chosen = alpha_score(p.chosen.logratio, alpha=o.divergence_alpha)
    return _dpo_of(chosen, alpha_score(p.rejected.logratio, alpha=o.divergence_alpha), o.beta)


def ld_dpo(p: PairInputs, o: Options) -> Tensor:
    """DPO that counts what one response has beyond the other only in part."""

    def logratio(side: Side, other: Side) -> Tensor:
        return ld_logps(
            logprobs=side.logprobs - side.reference,
            mask=side.own,
            other_lengths=other.counts,
            alpha=o.ld_alpha,
        )

    return _dpo_of(logratio(p.chosen, p.rejected), logratio(p.rejected, p.chosen), o.beta)


def sampo(p: PairInputs, o: Options) -> Tensor:
    """DPO on as many tokens of one response as of the other, drawn anew each step."""

    def logratio(side: Side, other: Side) -> Tensor:
        keep = sampo_keep(mask=side.own, other_lengths=other.counts, seeds=p.seeds)
        return (side.logprobs - side.reference).masked_fill(~keep, 0.0).sum(-1)

    return _dpo_of(logratio(p.chosen, p.rejected), logratio(p.rejected, p.chosen), o.beta)


def dmpo(p: PairInputs, o: Options) -> Tensor:
    """DPO whose later turns count less."""

    def logratio(side: Side) -> Tensor:
        return dmpo_logratio(turn_logratios=_by_turn(side), turns=side.turns, gamma=o.turn_gamma)

    return _dpo_of(logratio(p.chosen), logratio(p.rejected), o.beta)


def turn_mean(p: PairInputs, o: Options) -> Tensor:
    """DPO on averages per turn."""

    def logratio(side: Side) -> Tensor:
        return turn_mean_logratio(turn_logratios=_by_turn(side), turns=side.turns)

    return _dpo_of(logratio(p.chosen), logratio(p.rejected), o.beta)


def simpo(p: PairInputs, o: Options) -> Tensor:
    """SimPO."""
    return simpo_logit(**p.logps, **p.lengths, beta=o.beta, gamma=o.simpo_gamma)


def cpo(p: PairInputs, o: Options) -> Tensor:
    """CPO without its NLL, which is `nll_weight`."""
    return cpo_logit(**p.logps, beta=o.beta)


def orpo(p: PairInputs, o: Options) -> Tensor:
    """ORPO without its NLL, which is `nll_weight`."""
    require_positive(odds_weight=o.odds_weight)
    return o.odds_weight * logistic_loss(orpo_log_odds(**p.logps, **p.lengths))


def slic(p: PairInputs, o: Options) -> Tensor:
    """SLiC-HF's ranking loss."""
    return slic_loss(**p.logps, delta=o.slic_delta)


def cdpo(p: PairInputs, o: Options) -> Tensor:
    """DPO with smoothed labels."""
    return smoothed_loss(sigmoid(p, o), flip_rate=o.flip_rate)


def robust(p: PairInputs, o: Options) -> Tensor:
    """DPO made unbiased under random flips of the labels."""
    return flip_corrected_loss(sigmoid(p, o), flip_rate=o.flip_rate)


def hinge(p: PairInputs, o: Options) -> Tensor:
    """DPO's logit under a hinge."""
    return hinge_loss(sigmoid(p, o))


def ipo(p: PairInputs, o: Options) -> Tensor:
    """IPO on averages per token."""
    return ipo_loss(**p.logratios, **p.lengths, tau=o.tau)


def ipo_sum(p: PairInputs, o: Options) -> Tensor:
    """IPO as printed, on sums."""
    return ipo_sum_loss(**p.logratios, tau=o.tau)


def exo(p: PairInputs, o: Options) -> Tensor:
    """EXO."""
    return exo_loss(**p.logratios, beta=o.beta, flip_rate=o.flip_rate)


def nca(p: PairInputs, o: Options) -> Tensor:
    """NCA of a pair."""
    return nca_loss(**p.logratios, beta=o.beta)


def bco_pair(p: PairInputs, o: Options) -> Tensor:
    """BCO of a pair; delta is the mean reward of all steps before this one."""
    return bco_pair_loss(**p.logratios, beta=o.beta, delta=p.state.delta)


def sppo_hard(p: PairInputs, o: Options) -> Tensor:
    """SPPO with certain labels."""
    return sppo_hard_loss(**p.logratios, beta=o.beta)


def apo_zero(p: PairInputs, o: Options) -> Tensor:
    """APO-zero."""
    return apo_zero_loss(**p.logratios, beta=o.beta)


def apo_down(p: PairInputs, o: Options) -> Tensor:
    """APO-down."""
    return apo_down_loss(**p.logratios, beta=o.beta)


def discopop(p: PairInputs, o: Options) -> Tensor:
    """DiscoPOP."""
    return discopop_loss(**p.logratios, beta=o.beta, tau=o.tau)


def aot(p: PairInputs, o: Options) -> Tensor:
    """AOT: row i compares the i-th smallest gaps of the step, not pair i."""
    logit = aot_logit(
        policy_gaps=p.chosen.logps - p.rejected.logps,
        reference_gaps=p.chosen.reference.sum(-1) - p.rejected.reference.sum(-1),
        beta=o.beta,
    )
    return smoothed_loss(logit, flip_rate=o.flip_rate)


def aot_unpaired(p: PairInputs, o: Options) -> Tensor:
    """AOT that forgets who was paired with whom."""
    return smoothed_loss(aot_unpaired_logit(**p.logratios, beta=o.beta), flip_rate=o.flip_rate)


def beta_dpo(p: PairInputs, o: Options) -> Tensor:
    """DPO on the typical pairs of the step, with a beta that follows their margins.

    Dropped pairs give 0, kept ones are scaled up so that the weighted mean is that of the kept.
    """
    average = p.state.average.updated(p.margins, decay=o.margin_decay)
    seed = seed_of(p.state.seed, p.state.step)
    keep = beta_dpo_keep(margins=p.margins, average=average, keep_frac=o.keep_frac, seed=seed)
    beta_now = beta_dpo_beta(
        margins=p.margins[keep], beta=o.beta, scale=o.beta_scale, centre=average.centre
    )
    share = p.weights.sum() / p.weights[keep].sum()
    return logistic_loss(beta_now * p.margins) * keep * share


def _dpo_of(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    return dpo_logit(chosen_logratio=chosen, rejected_logratio=rejected, beta=beta)


def _by_turn(side: Side) -> Tensor:
    return sum_by_turn(
        logratios=side.logprobs - side.reference,
        mask=side.own,
        turn_of_token=side.turn_of_token,
        turns=int(side.turns.max()),
    )


def _r_dpo_start(p: PairInputs, o: Options) -> Tensor:
    return o.length_alpha * (p.chosen.lengths - p.rejected.lengths)


def _exo_start(_: PairInputs, o: Options) -> float:
    return -LOG_2 - 0.5 * math.log(o.flip_rate * (1 - o.flip_rate))


def _ipo_start(_: PairInputs, o: Options) -> float:
    return 1 / (4 * o.tau**2)


def _sppo_start(_: PairInputs, o: Options) -> float:
    return 1 / (2 * o.beta**2)


LOG_2 = math.log(2)
OBJECTIVES: dict[str, Objective] = {
    "sigmoid": Objective(compute=sigmoid),
    "sigmoid_norm": Objective(compute=sigmoid_norm, per_token=True),
    "r_dpo": Objective(compute=r_dpo, init=_r_dpo_start),
    "dpop": Objective(compute=dpop),
    "forward_kl": Objective(compute=forward_kl),
    "js": Objective(compute=js),
    "alpha_divergence": Objective(compute=alpha_divergence),
    "ld_dpo": Objective(compute=ld_dpo),
    "sampo": Objective(compute=sampo),
    "dmpo": Objective(compute=dmpo, by_turn=True),
    "turn_mean": Objective(compute=turn_mean, by_turn=True),
    "simpo": Objective(compute=simpo, init=None, per_token=True),
    "cpo": Objective(compute=cpo, init=None, nll_weight=1.0),
    "cdpo": Objective(compute=cdpo, init=LOG_2),
    "robust": Objective(compute=robust, init=LOG_2),
    "hinge": Objective(compute=hinge, init=1.0),
    "ipo": Objective(compute=ipo, init=_ipo_start, per_token=True),
    "ipo_sum": Objective(compute=ipo_sum, init=_ipo_start),
    "exo": Objective(compute=exo, init=_exo_start),
    "nca": Objective(compute=nca, init=2 * LOG_2),
    "bco_pair": Objective(compute=bco_pair, init=2 * LOG_2),
    "sppo_hard": Objective(compute=sppo_hard, init=_sppo_start),
    "apo_zero": Objective(compute=apo_zero, init=1.0),
    "apo_down": Objective(compute=apo_down, init=1.0),
    "discopop": Objective(compute=discopop, init=(1 + LOG_2) / 2),
    "orpo": Objective(
        compute=orpo,
        init=None,
        nll_weight=1.0,
        per_token=True,
    ),
    "slic": Objective(compute=slic, init=None),
    "aot": Objective(compute=aot, init=LOG_2),
    "aot_unpaired": Objective(compute=aot_unpaired, init=LOG_2),
    "beta_dpo": Objective(compute=beta_dpo, init=LOG_2),
}
