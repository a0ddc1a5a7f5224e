"""The same items under two systems: what was gained, what was lost, and what that proves."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from preftune.errors import DataError
from preftune.stats.bootstrap import bootstrap_means
from preftune.stats.intervals import cluster_places, clustered_se, z_value, zero_failure_bound

EXACT_BELOW = 26  # discordant clusters; from here on the bootstrap is used


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """How much more often the candidate passes than the baseline, as a share of the items."""

    gained: int  # items only the candidate passes
    lost: int  # items only the baseline passes
    n: int  # items
    clusters: int  # independent units among them
    difference: float  # (gained - lost) / n
    se: float
    low: float  # one-sided bound: the truth is above it at the level
    high: float  # one-sided bound: the truth is below it at the level
    level: float = 0.95
    exact: bool = False  # True: a bound leans on the exact zero-failure bound


def paired_difference(*, gained: int, lost: int, n: int, level: float = 0.95) -> PairedDifference:
    """Return the difference of two pass rates over `n` independent items, with one-sided bounds.

    d = (gained - lost) / n with variance ((gained + lost) / n - d²) / n. Six lost and three gained
    of 300: d -.01, SE .009983, lower bound -.026421.

    Raises:
        DataError: counts below 0, or more changed items than items.
    """
    if min(gained, lost) < 0 or gained + lost > n or n < 1:
        raise DataError(
            f"paired_difference: {gained} gained and {lost} lost of {n}. Count each item once."
        )
    d = (gained - lost) / n
    se = math.sqrt(max(0.0, (gained + lost) / n - d * d) / n)
    return _bounded(gained=gained, lost=lost, n=n, clusters=n, se=se, level=level)


def clustered_paired_difference(
    *,
    baseline: Sequence[bool],
    candidate: Sequence[bool],
    clusters: Sequence[Hashable],
    level: float = 0.95,
) -> PairedDifference:
    """Return the difference of two pass rates when items come in clusters (samples of a prompt).

    The standard error is `clustered_se` of the per-item differences -1, 0, 1. One cluster alone
    gives no error bar: the bounds are then -1 and 1, and `se` is the whole range, 2.

    Args:
        baseline: whether each item passed under the baseline.
        candidate: the same items under the candidate, in the same order.
        clusters: the cluster of each item.
        level: one-sided level of both bounds.

    Raises:
        DataError: no items, or lengths that differ.
    """
    if not baseline or not len(baseline) == len(candidate) == len(clusters):
        raise DataError(
            f"clustered_paired_difference: {len(baseline)} baseline, {len(candidate)} candidate "
            f"items, {len(clusters)} clusters. Give one each, at least one."
        )
    steps = _steps(baseline, candidate)
    groups = len(set(clusters))
    return _bounded(
        gained=int((steps > 0).sum()),
        lost=int((steps < 0).sum()),
        n=len(steps),
        clusters=groups,
        se=clustered_se(steps.tolist(), clusters) if groups > 1 else 2.0,
        level=level,
    )


def _bounded(
    *, gained: int, lost: int, n: int, clusters: int, se: float, level: float
) -> PairedDifference:
    """Return the record with Wald bounds, widened where they would be blind.

    With nothing lost the Wald bound knows nothing of losses too rare to have been seen; the exact
    bound of `clusters` units without a failure then widens it. The same holds for gains above.
    """
    d, reach = (gained - lost) / n, z_value(level, sides=1) * se
    unseen = zero_failure_bound(clusters, level=level)
    low = min(d - reach, gained / n - unseen) if lost == 0 else d - reach
    high = max(d + reach, unseen - lost / n) if gained == 0 else d + reach
    return PairedDifference(
        gained=gained,
        lost=lost,
        n=n,
        clusters=clusters,
        difference=d,
        se=se,
        low=max(-1.0, low),
        high=min(1.0, high),
        level=level,
        exact=low < d - reach or high > d + reach,
    )


def mcnemar_exact(*, gained: int, lost: int) -> float:
    """Return the two-sided p-value that gains and losses are equally likely: 6 / 3 gives .507812.

    2·P(Bin(gained + lost, ½) <= the smaller), at most 1. Items that did not change say nothing.

    Source: McNemar 1947, Psychometrika 12; the exact binomial form.
    """
    if min(gained, lost) < 0:
        raise DataError(f"mcnemar_exact: {gained} gained, {lost} lost. Counts start at 0.")
    return min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_p_value(
    *,
    baseline: Sequence[bool],
    candidate: Sequence[bool],
    clusters: Sequence[Hashable],
    rounds: int = 2000,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value that the two systems pass equally often.

    Each cluster speaks once: its gains minus its losses. Up to 25 clusters that speak, exactly
    (McNemar on their signs; with one item per cluster that is McNemar's test itself); beyond, by
    the bootstrap over clusters, whose smallest p-value is 2 / (rounds + 1).

    Raises:
        DataError: as `clustered_paired_difference` and `bootstrap_ratios`.
    """
    steps = _steps(baseline, candidate)
    net = np.bincount(cluster_places(clusters), weights=steps)
    gained, lost = int((net > 0).sum()), int((net < 0).sum())
    if gained + lost < EXACT_BELOW:
        return mcnemar_exact(gained=gained, lost=lost)
    draws = bootstrap_means(steps.tolist(), clusters, rounds=rounds, seed=seed)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2.0 * (float(tail) + 1.0) / (rounds + 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number, step-down, in the order given.

    (.01, .04, .03, .005) gives (.03, .06, .06, .02). All claims with an adjusted value below .05
    hold together at the 5 % level.

    Source: Holm 1979, Scand. J. Stat. 6.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _steps(baseline: Sequence[bool], candidate: Sequence[bool]) -> np.ndarray:
    return np.asarray(candidate, dtype=np.int64) - np.asarray(baseline, dtype=np.int64)
