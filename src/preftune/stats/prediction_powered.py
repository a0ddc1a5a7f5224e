"""Few labels by people, many by a judge: a mean whose interval holds however wrong the judge is."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.intervals import cluster_places, z_value

Array = NDArray[np.float64]
Clusters = Sequence[Hashable]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoweredMean:
    """A mean with its standard error and interval; `weight` says how far predictions were used."""

    value: float
    se: float
    low: float
    high: float
    weight: float  # 0: the labels alone


def prediction_powered_mean(
    predictions: ArrayLike,
    *,
    labelled_predictions: ArrayLike,
    labels: ArrayLike,
    clusters: Clusters | None = None,
    labelled_clusters: Clusters | None = None,
    weight: float | None = None,
    level: float = 0.95,
) -> PoweredMean:
    """Return mean(w·f) over many items + mean(y - w·f) over the labelled ones.

    What the predictions f get wrong on labelled items is taken off, so the interval holds however
    bad they are, and good ones make it short. The labelled items must be drawn at random.
    With w 1, f (.6, .7, .4, .8, .5, .9, .3, .6), y (1, 0, 1) where f is (.8, .4, .6): .666667,
    standard error .250555.

    Args:
        predictions: f of many items [N], the labelled ones among them or not.
        labelled_predictions: f of the labelled items [n].
        labels: y of the labelled items [n].
        clusters: the cluster of each prediction, such as its prompt; each its own when None.
            One named in both lists is one cluster, so the two means may share items.
        labelled_clusters: the cluster of each label; given where `clusters` is.
        weight: w. 1 is the plain form, 0 the mean of the labels; None takes the shortest interval
            of 0..1, so predictions that tell nothing cost nothing.
        level: of the interval, two-sided.

    Raises:
        DataError: lists that do not fit, or fewer than two clusters of predictions or of labels.

    Source: Angelopoulos et al. 2023, arXiv:2301.09633; the weight, arXiv:2311.01453.
    """
    f, g, y = (np.asarray(x, dtype=np.float64) for x in (predictions, labelled_predictions, labels))
    places, labelled_places = _places(clusters, labelled_clusters, len(f), len(y))
    _check(f, g, y, places, labelled_places)
    place = np.concatenate([places, labelled_places])
    from_labels = np.bincount(place, np.r_[np.zeros(len(f)), _pull(y, labelled_places)])
    from_both = np.bincount(place, np.r_[_pull(f, places), -_pull(g, labelled_places)])
    if weight is None:
        bend = float(from_both @ from_both)  # of the squared error, a parabola in w
        weight = min(1.0, max(0.0, -float(from_labels @ from_both) / bend)) if bend else 0.0
    value = float(y.mean() + weight * (f.mean() - g.mean()))
    se = float(np.linalg.norm(from_labels + weight * from_both))
    reach = z_value(level) * se
    return PoweredMean(value=value, se=se, low=value - reach, high=value + reach, weight=weight)


def _places(
    clusters: Clusters | None, labelled: Clusters | None, n: int, n_labelled: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cluster of each prediction and of each label as numbers, shared by name."""
    if clusters is None and labelled is None:
        return np.arange(n), n + np.arange(n_labelled)
    first, second = clusters or (), labelled or ()
    place = cluster_places([*first, *second])
    return place[: len(first)], place[len(first) :]


def _check(
    f: Array, g: Array, y: Array, places: NDArray[np.int64], labelled: NDArray[np.int64]
) -> None:
    if not (len(f) == len(places) and len(g) == len(y) == len(labelled)):
        raise DataError(
            f"prediction_powered_mean: {len(f)} predictions with {len(places)} clusters, {len(g)} "
            f"predictions for {len(y)} labels with {len(labelled)} clusters. Give one of each per "
            "item, and clusters for both or for neither."
        )
    if min(len(np.unique(places)), len(np.unique(labelled))) < 2:
        raise DataError(
            "prediction_powered_mean: an error bar needs two clusters of predictions and two of "
            "labels. Label more items."
        )


def _pull(x: Array, places: NDArray[np.int64]) -> Array:
    """Return how far each item moves the mean, widened as few clusters ask for: G / (G - 1)."""
    groups = len(np.unique(places))
    return np.asarray((x - x.mean()) / len(x) * math.sqrt(groups / (groups - 1)))
