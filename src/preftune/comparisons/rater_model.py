"""Raters with a skill and a side bias: what their votes on a pair are worth together.

Every pair of responses has a gap d ~ N(0, 1), how much better the first is. A rater who sees it
leans towards the response shown first by `skill · (± d) + side` nats, + where d's first response
is shown first, and says first, tie or second by Davidson's model with a nu of its own, for some
tie more easily than others. Unlike Dawid and Skene's model it knows that some pairs are close, so
that agreement is not taken for certainty.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import logit, ndtri, softmax

from preftune.comparisons.vote_table import VoteTable
from preftune.errors import DataError
from preftune.stats.bootstrap import cluster_weights, percentile_interval
from preftune.stats.intervals import Interval
from preftune.stats.ties import davidson_probabilities

Array = NDArray[np.float64]
NODES = ndtri((np.arange(24) + 0.5) / 24)  # [D] gaps, equally likely; 12 on either side of 0
BETTER = NODES > 0
TURN = np.array([1.0, -1.0])  # of the gap, as shown: first order, swapped
OUTCOMES = {1: 0, 0: 1, -1: 2}  # places of: first shown better, tie, second shown better
SPREAD = 1.0  # nats: how far skills lie round their mean, and sides round 0, before any vote
MOST_SKILL = 20.0  # where raters never differ, the votes do not say how sharp they are
SETTLED = 1e-5
Shown = tuple[str, int, bool]
"""(rater, vote, swapped): 1 where the first shown is better, 0 a tie, -1 the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterModel:
    """What the votes of each rater are worth."""

    skill: dict[str, float]  # nats per standard deviation of the gaps; below 0 is an adversary
    side: dict[str, float]  # nats in favour of the response shown first
    tie: dict[str, float]  # Davidson's nu: how easily the rater ties; 0 where nobody ever tied
    rounds: int

    def accuracy(self, rater: str) -> float:
        """Return how often the rater's decided votes name the better response, sides balanced."""
        lead = self.skill[rater] * NODES[BETTER] + np.outer(TURN, [self.side[rater]])
        first, _, second = davidson_probabilities(lead, self.tie[rater])
        return float((first / (first + second)).mean())

    def probability(self, votes: Iterable[Shown]) -> float:
        """Return the probability that the first response of the pair is the better one.

        Without votes it is ½. It stays inside 1e-6 .. 1 - 1e-6.

        Raises:
            DataError: a vote of a rater the model does not know.
        """
        log = np.zeros(len(NODES))
        for rater, vote, swapped in votes:
            if rater not in self.skill:
                raise DataError(
                    f"rater {rater} is not in the rater model. Fit it on judgments that hold all "
                    "raters whose votes are to be joined."
                )
            log += _log_of(vote, swapped, self.skill[rater], self.side[rater], self.tie[rater])
        return float(np.clip(softmax(log)[BETTER].sum(), 1e-6, 1 - 1e-6))

    def log_odds(self, votes: Iterable[Shown]) -> float:
        """Return the log odds, in nats, that the first response of the pair is the better one.

        Raises:
            DataError: as `probability`.
        """
        return float(logit(self.probability(votes)))


def fit_raters(
    votes: VoteTable, *, gold: Mapping[str, int] | None = None, max_rounds: int = 2000
) -> RaterModel:
    """Return the skills and side biases that explain sparse votes best.

    Expectation–maximisation with the gap of each pair integrated out. Skills are drawn towards
    their mean (with one more rater of skill 1), sides towards 0, as by normal priors of 1 nat, so
    that a rater of few votes counts as an average one; a skill stays within ±20. A rater's last
    vote in each order of a pair counts.

    Args:
        votes: from `vote_table`.
        gold: unit → 1 where its first response is known to be better, -1 the second.
        max_rounds: gives up, with an error, after this many.

    Raises:
        DataError: no two votes on any pair and no gold, a gold answer other than 1 and -1, raters
            of whom most are worse than chance, or no settled answer.

    Source: the two-parameter model of item response theory (Birnbaum 1968, in Lord and Novick) with
    pairs as persons; ties: Davidson 1970; marginal likelihood: Bock and Aitkin 1981.
    """
    cells = _cells(votes, gold or {})
    weight = np.ones(len(votes.units))
    state = _settle(cells, _start(cells), weight, max_rounds)
    return _named(votes, state)


def skill_intervals(
    votes: VoteTable, *, rounds: int = 200, seed: int = 0
) -> dict[str, tuple[Interval, Interval]]:
    """Return 95 % percentile intervals of each rater's skill and side, prompts drawn anew.

    Raises:
        DataError: as `fit_raters` on any draw.
    """
    cells = _cells(votes, {})
    best = _settle(cells, _start(cells), np.ones(len(votes.units)), 2000)
    drawn = [
        _settle(cells, best, weight, 2000)
        for weight in cluster_weights(votes.cluster.tolist(), rounds=rounds, seed=seed)
    ]
    skills, sides = np.array([s.skill for s in drawn]), np.array([s.side for s in drawn])
    return {
        rater: (percentile_interval(skills[:, k]), percentile_interval(sides[:, k]))
        for k, rater in enumerate(votes.raters)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cells:
    """Votes counted: [U, R · outcome · order] sparse, and the log prior of each gap [U, D]."""

    raters: int
    said: sparse.csr_matrix
    prior: Array
    tie_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    skill: Array  # [R]
    side: Array  # [R]
    log_nu: Array  # [R]; -inf where nobody ever tied
    rounds: int


def _cells(votes: VoteTable, gold: Mapping[str, int]) -> _Cells:
    table = votes.where(votes.last(by_order=True))
    if not set(gold.values()) <= {1, -1}:
        raise DataError("fit_raters: a gold answer other than 1 or -1. Leave gold ties out.")
    per_unit = np.bincount(table.unit, minlength=len(votes.units))
    if not (per_unit > 1).any() and not gold:
        raise DataError(
            "fit_raters: no pair has two votes. Let two raters judge some, or give gold."
        )
    column = (table.rater * 3 + (1 - table.shown)) * 2 + table.swapped
    said = sparse.csr_matrix(
        (np.ones(len(table)), (table.unit, column)),
        shape=(len(votes.units), len(votes.raters) * 6),
    )
    prior = np.zeros((len(votes.units), len(NODES)))
    for place, unit in enumerate(votes.units):
        if unit in gold:
            prior[place, NODES * gold[unit] < 0] = -np.inf
    return _Cells(
        raters=len(votes.raters),
        said=said,
        prior=prior,
        tie_share=float((table.shown == 0).mean()) if len(table) else 0.0,
    )


def _start(cells: _Cells) -> _State:
    """Return everybody of skill 1 without bias, ties as often as they came."""
    nu = 2 * cells.tie_share / max(1 - cells.tie_share, 1e-6)
    none = np.zeros(cells.raters)
    log_nu = none + (math.log(nu) if nu else -math.inf)
    return _State(skill=none + 1, side=none, log_nu=log_nu, rounds=0)


def _settle(cells: _Cells, state: _State, weight: Array, max_rounds: int) -> _State:
    """Take turns between the gaps' probabilities and one Newton step of the raters."""
    across = cells.said.T.tocsr()
    for rounds in range(1, max_rounds + 1):
        q = cells.said @ _log_table(state).reshape(-1, len(NODES))  # in place: it is a large one
        q += cells.prior
        q -= q.max(1, keepdims=True)
        np.exp(q, out=q)
        q *= (weight / q.sum(1))[:, None]
        counts = (across @ q).reshape(cells.raters, 3, 2, len(NODES))
        new = _improved(counts, state, rounds)
        moved = max(np.abs(new.skill - state.skill).max(), np.abs(new.side - state.side).max())
        state = new
        if moved < SETTLED:
            _refuse_adversaries(state)
            return state
    raise DataError(f"fit_raters: not settled after {max_rounds} rounds. Give more votes.")


def _log_table(state: _State) -> Array:
    """Return log P(outcome) by rater, outcome, order and gap, [R, 3, 2, D]."""
    return np.stack([_log(p) for p in _said(state)], 1)


def _said(state: _State) -> tuple[Array, Array, Array]:
    """Return P(first shown), P(tie), P(second shown) by rater, order and gap, each [R, 2, D]."""
    skill, side, log_nu = (x[:, None, None] for x in (state.skill, state.side, state.log_nu))
    return davidson_probabilities(skill * TURN[:, None] * NODES + side, np.exp(log_nu))


def _improved(counts: Array, state: _State, rounds: int) -> _State:
    """Return the state after one Newton step of every rater: skill and side together, then nu."""
    first, tie, second = _said(state)
    n, mean = counts.sum(1), (first - second) / 2
    pull = (counts[:, 0] - counts[:, 2]) / 2 - n * mean
    bend = n * ((first + second) / 4 - mean**2)
    x = TURN[:, None] * NODES
    prior = 1 / SPREAD**2
    usual = (state.skill.sum() + 1) / (len(state.skill) + 1)
    slope_skill = (pull * x).sum((1, 2)) - prior * (state.skill - usual)
    slope_side = pull.sum((1, 2)) - prior * state.side
    a, b, c = (bend * x**2).sum((1, 2)) + prior, (bend * x).sum((1, 2)), bend.sum((1, 2)) + prior
    determinant = a * c - b**2
    step_skill = (c * slope_skill - b * slope_side) / determinant
    step_side = (a * slope_side - b * slope_skill) / determinant
    log_nu = state.log_nu
    if np.isfinite(log_nu).all():
        slope = (counts[:, 1] - n * tie).sum((1, 2)) - prior * (log_nu - log_nu.mean())
        log_nu = log_nu + np.clip(slope / ((n * tie * (1 - tie)).sum((1, 2)) + prior), -1, 1)
    return _State(
        skill=np.clip(state.skill + np.clip(step_skill, -1, 1), -MOST_SKILL, MOST_SKILL),
        side=state.side + np.clip(step_side, -1, 1),
        log_nu=log_nu,
        rounds=rounds,
    )


def _refuse_adversaries(state: _State) -> None:
    wrong = int((state.skill <= 0).sum())
    if 2 * wrong > len(state.skill):
        raise DataError(
            f"fit_raters: {wrong} of {len(state.skill)} raters look no better than chance. Check "
            "the labels, or give gold answers."
        )


def _named(votes: VoteTable, state: _State) -> RaterModel:
    return RaterModel(
        skill=dict(zip(votes.raters, state.skill.tolist(), strict=True)),
        side=dict(zip(votes.raters, state.side.tolist(), strict=True)),
        tie=dict(zip(votes.raters, np.exp(state.log_nu).tolist(), strict=True)),
        rounds=state.rounds,
    )


@lru_cache(maxsize=65_536)  # few raters, many votes
def _log_of(vote: int, swapped: bool, skill: float, side: float, tie: float) -> Array:
    """Return log P(vote) at each gap, [D]."""
    lead = skill * TURN[int(swapped)] * NODES + side
    return _log(davidson_probabilities(lead, tie)[OUTCOMES[vote]])


def _log(p: Array) -> Array:
    """Logarithm that stays finite: a tie where nobody ever tied is never looked up."""
    return np.asarray(np.log(np.maximum(p, 1e-300)))
