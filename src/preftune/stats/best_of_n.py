"""Best-of-n: its exact law, its distance from the reference, what it gains, what it costs.

Two ways in. Where every response and its probability are known, the law is exact. Where there is
only one batch of scored draws, the estimators below are unbiased for every n up to its size: each
draw counts as often as it would win among n drawn from the batch without putting any back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.bootstrap import cluster_weights, percentile_interval

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """A mean over prompts when the best of `k` is taken; no ends with one prompt alone."""

    k: int
    mean: float
    low: float | None
    high: float | None
    prompts: int


def best_of_n_law(probabilities: ArrayLike, scores: ArrayLike, *, n: int) -> Array:
    """Return the probability of each response when the best of `n` draws is taken.

    `F(y)^n - F(y-)^n` over the scores; responses of one score share it as the reference has them,
    which is what "the first drawn wins" does. (.4, .3, .2, .1) from worst to best gives
    (.16, .33, .32, .19) at n 2.

    Args:
        probabilities: of each response under the reference; they sum to 1.
        scores: the score of each response.
        n: how many are drawn, >= 1.

    Raises:
        DataError: no law, lengths that differ, a score that is no finite number, or n < 1.
    """
    p, group = _known_law(probabilities, scores, n)
    mass = _mass(group, p)
    won = _mass_of_best(mass, n)
    share = np.divide(won, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.asarray(p * share[group])


def best_of_n_kl(probabilities: ArrayLike, scores: ArrayLike, *, n: int) -> float:
    """Return KL(best-of-n : reference) in nats, exactly; .157199 for the law of `best_of_n_law`."""
    p, group = _known_law(probabilities, scores, n)
    mass = _mass(group, p)
    mass = mass[mass > 0]
    won = _mass_of_best(mass, n)
    some = won > 0
    return float((won[some] * np.log(won[some] / mass[some])).sum())


def kl_upper_bound(n: int) -> float:
    """Return ln n - (n - 1) / n, in nats: an upper bound of the KL; .636294 at n 4.

    It is met when no response has much mass. Where a few responses hold most of it, the true KL is
    far lower.

    Source: Beirami et al. 2024, arXiv:2401.01879.
    """
    _check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_win_rate(probabilities: ArrayLike, scores: ArrayLike, *, n: int) -> float:
    """Return how often the best of n beats one draw, ties half; .65 for the law above."""
    p, group = _known_law(probabilities, scores, n)
    mass = _mass(group, p)
    return float(_mass_of_best(mass, n) @ (np.cumsum(mass) - mass / 2))


def win_rate_upper_bound(n: int) -> float:
    """Return n / (n + 1), an upper bound of the win rate, met when no two scores are equal."""
    _check_n(n)
    return n / (n + 1)


def early_rejection_tokens(
    *, n: int, prefix_tokens: float, keep_frac: float, mean_tokens: float
) -> float:
    """Return the tokens per prompt when all start and a share goes on: n k + f n (E L - k).

    64 draws of 200 tokens, a quarter kept after 50: 5,600 instead of 12,800.
    """
    return n * prefix_tokens + keep_frac * n * (mean_tokens - prefix_tokens)


def expected_best(scores: ArrayLike, quality: ArrayLike) -> Array:
    """Return `[N]`: the quality of the best of k by score, for k = 1 … N, from N draws.

    Unbiased for every k: `Σ_i C(i-1, k-1) / C(N, k) · g_(i)`, i the rank by score; draws of one
    score share their weights. Scores and quality (-1, 0, .5, 2) give (.375, 1.166667, 1.625, 2).
    Quality = score says what is gained by the score itself; quality = length and score = length,
    how long the slowest of k takes.

    Args:
        scores: what chooses, one finite number per draw of one prompt.
        quality: what the choice is worth: the same, a gold score, a length.

    Raises:
        DataError: no draws, lengths that differ, or a number that is not finite.
    """
    score, worth = _draws(scores, quality)
    group = np.unique(score, return_inverse=True)[1]
    shared = (np.bincount(group, worth) / np.bincount(group))[np.sort(group)]
    return np.asarray(_weights(len(score)) @ shared)


def expected_win(scores: ArrayLike, quality: ArrayLike) -> Array:
    """Return `[N - 1]`: how often the best of k by score beats another draw in quality, ties half.

    For k = 1 … N - 1: unbiased, each choice of k draws meeting each of the draws left. Without
    ties and with quality = score it is k / (k + 1), whatever the scores are.

    Raises:
        DataError: as `expected_best`.
    """
    score, worth = _draws(scores, quality)
    order = np.argsort(score, kind="stable")
    worth, group = worth[order], np.unique(score[order], return_inverse=True)[1]
    beats = (worth[:, None] > worth) + 0.5 * (worth[:, None] == worth)
    np.fill_diagonal(beats, 0.0)
    size = np.bincount(group)
    lower, mates = group[:, None] < group, group[:, None] == group

    def shared(wins: Array) -> Array:
        return np.asarray((np.bincount(group, wins.sum(1)) / size)[group])

    place = np.arange(len(score)) - (np.cumsum(size) - size)[group]
    ahead = (size[group] - 1 - place) / np.maximum(size[group] - 1, 1)  # of its mates
    within = shared(np.where(mates, beats, 0.0))
    above = shared(np.where(lower, beats, 0.0)) + within * ahead
    below = shared(np.where(lower.T, beats, 0.0)) + within * (1 - ahead)
    weights = _weights(len(score))[:-1]
    left = len(score) - np.arange(1, len(score))
    return np.asarray((weights @ above + weights[:, :-1] @ below[1:]) / left)


def curve(per_prompt: Sequence[Array], *, rounds: int = 2000, seed: int = 0) -> list[CurvePoint]:
    """Return, for every k, the mean over the prompts that have a figure for it.

    The interval is the percentile bootstrap over prompts, 95 %. Prompts with fewer draws have
    shorter rows, so `prompts` may fall with k; then the points are not of the same prompts.

    Args:
        per_prompt: one row per prompt: the figure at k = 1, 2, …; no rows give no points.
        rounds: of the bootstrap, >= 1000.
        seed: of the bootstrap.
    """
    longest = max((len(row) for row in per_prompt), default=0)
    if longest == 0:
        return []
    values, there = np.zeros((2, len(per_prompt), longest))
    for place, row in enumerate(per_prompt):
        values[place, : len(row)], there[place, : len(row)] = row, 1.0
    counts = there.sum(0)
    means = values.sum(0) / np.maximum(counts, 1)
    off = values - means * there
    drawn = [
        (w @ off, w @ there) for w in cluster_weights(range(len(values)), rounds=rounds, seed=seed)
    ]
    tops, bottoms = (np.array(sums) for sums in zip(*drawn, strict=True))
    points = []
    for at, (mean, count) in enumerate(zip(means.tolist(), counts.tolist(), strict=True)):
        some = bottoms[:, at] > 0
        ends = percentile_interval(mean + tops[some, at] / bottoms[some, at]) if count > 1 else None
        points.append(
            CurvePoint(
                k=at + 1,
                mean=mean,
                low=ends.low if ends else None,
                high=ends.high if ends else None,
                prompts=int(count),
            )
        )
    return points


@lru_cache(maxsize=8)
def _weights(draws: int) -> Array:
    """Return `[k, rank]`: how often the draw of each rank wins among k of `draws`; rows sum to 1.

    C(i-1, k-1) / C(N, k), from the top rank (k / N) down by the factor (i-k) / (i-1).
    """
    k = np.arange(1, draws + 1, dtype=np.float64)[:, None]
    rank = np.arange(draws, 1, -1, dtype=np.float64)
    steps = np.maximum(rank - k, 0.0) / (rank - 1)
    falling = np.cumprod(np.hstack([k / draws, steps]), axis=1)
    weights: Array = np.ascontiguousarray(falling[:, ::-1], dtype=np.float64)
    weights.flags.writeable = False
    return weights


def _mass(group: NDArray[np.int64], p: Array) -> Array:
    return np.asarray(np.bincount(group, p), dtype=np.float64)


def _mass_of_best(mass: Array, n: int) -> Array:
    """Return the mass of each group of equal scores, from worst to best, under best-of-n."""
    upto = np.cumsum(mass)
    upto /= upto[-1]
    below = np.concatenate([[0.0], upto[:-1]])
    with np.errstate(divide="ignore"):  # nothing lies below the worst: log 0
        ratio = np.log(below) - np.log(upto)
    return np.asarray(upto**n * -np.expm1(n * ratio))


def _known_law(
    probabilities: ArrayLike, scores: ArrayLike, n: int
) -> tuple[Array, NDArray[np.int64]]:
    """Return the probabilities and the rank of each response's score, equal scores one rank."""
    _check_n(n)
    p, score = np.asarray(probabilities, np.float64), np.asarray(scores, np.float64)
    if p.ndim != 1 or p.shape != score.shape or not np.isfinite(score).all():
        raise DataError(
            f"best_of_n: probabilities {p.shape}, scores {score.shape}. "
            "Give one finite score per probability."
        )
    if not len(p) or not (p >= 0).all() or abs(p.sum() - 1) > 1e-9:
        raise DataError(f"best_of_n: probabilities sum to {p.sum():.9f}. Give a whole law.")
    keep = p > 0
    group = np.searchsorted(np.unique(score[keep]), score)
    return p, np.minimum(group, len(np.unique(score[keep])) - 1)


def _draws(scores: ArrayLike, quality: ArrayLike) -> tuple[Array, Array]:
    score, worth = np.asarray(scores, np.float64), np.asarray(quality, np.float64)
    if score.ndim != 1 or score.shape != worth.shape or not len(score):
        raise DataError(
            f"best_of_n: scores {score.shape}, quality {worth.shape}. Give one each per draw."
        )
    if not (np.isfinite(score).all() and np.isfinite(worth).all()):
        raise DataError("best_of_n: a score is not a finite number. Leave that draw out.")
    return score, worth


def _check_n(n: int) -> None:
    if n < 1:
        raise DataError(f"best_of_n: n {n}. Draw 1 or more.")
