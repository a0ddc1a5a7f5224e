"""The bootstrap over prompts: a prompt is drawn with all its responses, never one response alone.

Four samples of one prompt are alike; drawing single responses would count them as four witnesses
and make every interval too narrow.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from preftune.errors import DataError
from preftune.stats.intervals import Interval, cluster_places, zero_failure_bound

FEWEST_ROUNDS = 1000
CELLS_AT_ONCE = 4_000_000  # draws held in memory: 32 MB


def bootstrap_ratios(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    rounds: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Return `[rounds]` values of Σ numerators / Σ denominators over clusters drawn anew.

    Args:
        numerators: one number per item.
        denominators: one number per item, all of them >= 0 and some above 0.
        clusters: the cluster of each item, such as its prompt id.
        rounds: how many times the clusters are drawn, >= 1000.
        seed: equal seeds give equal draws.

    Raises:
        DataError: lengths differ, fewer than two clusters, or fewer than 1000 rounds.

    Source: Efron 1979; Davison and Hinkley 1997, section 3.8, for clusters.
    """
    place = cluster_places(clusters)
    groups = int(place.max()) + 1 if len(place) else 0
    if not len(numerators) == len(denominators) == len(place):
        raise DataError(
            f"bootstrap: {len(numerators)} numerators, {len(denominators)} denominators, "
            f"{len(place)} clusters. Give one each per item."
        )
    if groups < 2:
        raise DataError(f"bootstrap: {groups} cluster. Give two prompts or more.")
    if rounds < FEWEST_ROUNDS:
        raise DataError(f"bootstrap: {rounds} rounds. Use {FEWEST_ROUNDS} or more.")
    top = np.bincount(place, weights=np.asarray(numerators, dtype=np.float64))
    bottom = np.bincount(place, weights=np.asarray(denominators, dtype=np.float64))
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, rounds, step := max(1, CELLS_AT_ONCE // groups)):
        drawn = rng.integers(groups, size=(min(step, rounds - start), groups))
        found.append(top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1))
    return np.concatenate(found)


def bootstrap_means(
    values: Sequence[float], clusters: Sequence[Hashable], *, rounds: int = 2000, seed: int = 0
) -> np.ndarray:
    """Return `[rounds]` means of the values over clusters drawn anew; see `bootstrap_ratios`."""
    return bootstrap_ratios(
        values, np.ones(len(values)).tolist(), clusters, rounds=rounds, seed=seed
    )


def cluster_weights(
    clusters: Sequence[Hashable], *, rounds: int, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield, `rounds` times, how often each item counts when its clusters are drawn anew.

    For figures that are no means (agreement, strengths, rater models): compute them with these
    weights. Items of one cluster have one weight; the clusters' weights add up to their number.

    Raises:
        DataError: no items.
    """
    if not len(clusters):
        raise DataError("bootstrap: nothing to draw from. Give at least one cluster.")
    place = cluster_places(clusters)
    groups = int(place.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        yield drawn.astype(np.float64)[place]


def percentile_interval(draws: np.ndarray, *, level: float = 0.95) -> Interval:
    """Return the range that leaves `(1 - level) / 2` of the draws out on either side."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a mean, clusters drawn with all their items.

    Raises:
        DataError: as `bootstrap_ratios`.
    """
    return percentile_interval(
        bootstrap_means(values, clusters, rounds=rounds, seed=seed), level=level
    )


def share_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of a mean of values in 0..1, honest also when all clusters agree.

    Where every cluster has the same mean, drawing again shows no spread at all, and three wins in
    three prompts would look certain. Then the exact bound speaks: G clusters leave open that a
    share `1 - ((1 - level) / 2)^(1 / G)` of prompts is of the other kind. One cluster: 0 to 1.

    Raises:
        DataError: no values, or a value outside 0..1.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or x.min() < 0.0 or x.max() > 1.0:
        raise DataError("share_interval: no values, or one outside 0..1. Give shares.")
    place = cluster_places(clusters)
    means = np.bincount(place, weights=x) / np.bincount(place)
    if len(means) == 1:
        return Interval(low=0.0, high=1.0)
    if np.ptp(means) == 0.0:
        open_share = zero_failure_bound(len(means), level=(1 + level) / 2)
        centre = float(means[0])
        return Interval(low=max(0.0, centre - open_share), high=min(1.0, centre + open_share))
    return mean_interval(values, clusters, level=level, rounds=rounds, seed=seed)
