"""Intervals and sample sizes of shares and means, in closed form."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from preftune.errors import DataError

QUANTILE = NormalDist().inv_cdf


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A range that holds the truth at the stated level; both ends are in the figure's own unit."""

    low: float
    high: float


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share; 60 of 100 gives .502003 to .690599.

    It stays inside 0..1 and keeps its level for shares near 0 and 1, where the textbook
    `p ± 1.96·SE` collapses.

    Args:
        successes: how many of the `n` independent items passed.
        n: items in all, >= 1. Items that come in clusters need `clustered_se` instead.
        level: two-sided level, in (0, 1).

    Raises:
        DataError: no item, or a count outside 0..n.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    _check_counts(successes, n)
    z = z_value(level)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low=low, high=high)


def zero_failure_bound(n: int, *, level: float = 0.95) -> float:
    """Return the largest failure rate that `n` items without a failure leave open, exactly.

    `1 - (1 - level)^(1/n)`, one-sided; 60 items give .048703, close to the rule of three (3/n).

    Raises:
        DataError: no item.
    """
    _check_counts(0, n)
    return -math.expm1(math.log1p(-level) / n)


def clustered_se(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Return the standard error of the mean of values that come in clusters.

    `sqrt(Σ_g (Σ_i (x_gi - mean))²) / n · sqrt(G / (G - 1))`. Several responses to one prompt say
    less than as many prompts; this error knows, the naive one does not. With one value per
    cluster it is the usual standard error (n - 1 below).

    Args:
        values: one number per item.
        clusters: the cluster of each item, such as its prompt id.

    Raises:
        DataError: the lengths differ, or there are fewer than two clusters.
    """
    x = np.asarray(values, dtype=np.float64)
    place = cluster_places(clusters)
    if len(place) != len(x):
        raise DataError(f"clustered_se: {len(x)} values, {len(place)} clusters. Give one each.")
    groups = int(place.max()) + 1 if len(place) else 0
    if groups < 2:
        raise DataError(f"clustered_se: {groups} cluster. An error bar needs two or more.")
    sums = np.bincount(place, weights=x - x.mean())
    return float(math.sqrt((sums**2).sum()) / len(x) * math.sqrt(groups / (groups - 1)))


def cluster_places(clusters: Sequence[Hashable]) -> np.ndarray:
    """Return the cluster of each item as 0, 1, …, numbered in order of first appearance."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(c, len(number)) for c in clusters], dtype=np.int64)


def power_half_width(n: int, *, level: float = 0.95) -> float:
    """Return the half width of a win rate near ½ over `n` prompts; 200 give .0693."""
    _check_counts(0, n)
    return z_value(level) * math.sqrt(0.25 / n)


def detectable_gain(n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest gain over ½ that `n` prompts show with this power; 200 give .099."""
    _check_counts(0, n)
    return (z_value(level) + QUANTILE(power)) * math.sqrt(0.25 / n)


def non_inferiority_n(
    *, discordance: float, margin: float, level: float = 0.95, power: float = 0.8
) -> int:
    """Return how many items certify "not worse by the margin" when in truth nothing changed.

    `(z_level + z_power)² · discordance / margin²`: margin .02 needs 310 items when 2 % differ
    between the two systems, 773 at 5 %, 1,546 at 10 %.

    Args:
        discordance: share of items on which the two systems differ (lost + gained), in 0..1.
        margin: largest loss that is still acceptable, as a share, > 0.
        level: one-sided level.
        power: chance to certify.

    Raises:
        DataError: a discordance outside 0..1 or a margin that is not above 0.
    """
    if not 0.0 <= discordance <= 1.0 or margin <= 0.0:
        raise DataError(
            f"non_inferiority_n: discordance {discordance}, margin {margin}. "
            "Give a share in 0..1 and a margin above 0."
        )
    z = QUANTILE(level) + QUANTILE(power)
    return max(1, math.ceil(z * z * discordance / margin**2))


def z_value(level: float, *, sides: int = 2) -> float:
    """Return how many standard errors reach the level: 1.960 for two-sided 95 %, 1.645 for one."""
    if not 0.0 < level < 1.0:
        raise DataError(f"level {level}. Give a number between 0 and 1, such as 0.95.")
    return QUANTILE(1 - (1 - level) / sides)


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"{successes} of {n} items. Give n >= 1 and a count from 0 to n.")
