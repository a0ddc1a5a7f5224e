"""Many shares at once, one per group (such as a rater), each with an interval that knows clusters.

Everything is counted by `numpy.bincount`, so a million votes of a thousand raters take a moment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.intervals import z_value

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of `n` items and the range that holds the truth, at 95 % if nothing else is said."""

    value: float
    n: int
    low: float
    high: float

    def differs_from(self, other: float) -> bool:
        """Whether the interval leaves `other` out."""
        return not self.low <= other <= self.high

    def __str__(self) -> str:
        """Return such as `62 % (55–69) of 180`."""
        return f"{self.value:.0%} ({100 * self.low:.0f}–{100 * self.high:.0f}) of {self.n:,}"


def wilson_bounds(share: ArrayLike, n: ArrayLike, *, level: float = 0.95) -> tuple[Array, Array]:
    """Return the ends of Wilson's score interval of many shares; `n` need not be whole.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    p, count = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    z = z_value(level)
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)


def grouped_shares(
    values: ArrayLike,
    *,
    groups: ArrayLike,
    clusters: ArrayLike,
    count: int,
    level: float = 0.95,
) -> list[Share | None]:
    """Return the mean of the values of each group 0 … `count` - 1; None for a group without any.

    The interval is Wilson's at the effective number of votes: p (1 - p) / SE², SE the clustered
    standard error, at most the number of values; where all clusters agree it is their number.
    60 of 100 unclustered items give what Wilson gives for 60 of 99.

    Args:
        values: one number in 0..1 per item.
        groups: the group of each item, 0 … `count` - 1.
        clusters: the cluster of each item, whole numbers; items of one prompt share theirs.
        count: how many groups there are.
        level: of the intervals.

    Raises:
        DataError: unequal lengths, or a value outside 0..1.
    """
    x, group = np.asarray(values, dtype=float), np.asarray(groups, dtype=np.int64)
    cluster = np.asarray(clusters, dtype=np.int64)
    if not len(x) == len(group) == len(cluster):
        raise DataError(
            f"grouped_shares: {len(x)} values, {len(group)} groups, {len(cluster)} clusters. "
            "Give one each per item."
        )
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise DataError("grouped_shares: a value outside 0..1. Give shares.")
    n = np.bincount(group, minlength=count)
    mean = np.bincount(group, x, minlength=count) / np.maximum(n, 1)
    effective = _effective_n(x, group, cluster, mean, n)
    low, high = wilson_bounds(mean, np.maximum(effective, 1e-9), level=level)
    rows = zip(mean.tolist(), n.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Share(value=p, n=k, low=lo, high=hi) if k else None for p, k, lo, hi in rows]


def share(values: ArrayLike, clusters: ArrayLike) -> Share | None:
    """Return the mean of values in 0..1 with its clustered interval; None where there is none.

    Raises:
        DataError: as `grouped_shares`.
    """
    x = np.asarray(values, dtype=float)
    return grouped_shares(x, groups=np.zeros(len(x)), clusters=clusters, count=1)[0]


def _effective_n(x: Array, group: Places, cluster: Places, mean: Array, n: Places) -> Array:
    """Return how many independent votes each group's values are worth."""
    width = int(cluster.max()) + 1 if len(cluster) else 1
    cells, place = np.unique(group * width + cluster, return_inverse=True)
    owner = cells // width
    off = np.bincount(place, x - mean[group]) ** 2
    clusters = np.bincount(owner, minlength=len(n))
    correction = clusters / np.maximum(clusters - 1, 1)
    squared = correction * np.bincount(owner, off, minlength=len(n)) / np.maximum(n, 1) ** 2
    spread = mean * (1 - mean)
    known = (squared > 1e-15) & (clusters > 1)
    worth = np.divide(spread, squared, out=clusters.astype(float), where=known)
    return np.asarray(np.minimum(worth, n))
