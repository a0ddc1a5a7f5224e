"""A small logistic model of differences, with errors over clusters: what wins, all else equal?"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from preftune.errors import DataError
from preftune.stats.intervals import cluster_places

Array = NDArray[np.float64]
NEWTON_STEPS = 100
LONGEST_STEP = 2.0  # nats, of one coefficient
SETTLED = 1e-10
NO_ANSWER = (
    "fit_logistic: no finite answer: a feature is a copy of another, never differs, or parts wins "
    "from losses without fail. Leave it out, or use a ridge."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Logistic:
    """Fitted coefficients [D] in nats per unit of the feature, and their standard errors [D]."""

    weights: Array
    errors: Array

    def probability(self, x: Array) -> Array:
        """Return P(win) of rows of differences [N, D]."""
        return np.asarray(expit(x @ self.weights))


def fit_logistic(
    x: Array, wins: Array, clusters: Sequence[Hashable], *, ridge: float = 0.0
) -> Logistic:
    """Return the maximum-likelihood weights of `logit P(win) = x · w`, with no intercept.

    The rows are differences of two responses, so swapping the two negates a row and its outcome and
    changes nothing. Errors are sandwich errors over clusters, times sqrt(G / (G - 1)).
    One feature that is 1 in every row, won 3 : 1, gives ln 3.

    Args:
        x: differences [N, D].
        wins: 1 or 0 per row [N].
        clusters: the cluster of each row, such as its prompt.
        ridge: weight of ½ w², >= 0; above 0 the answer is finite whatever the data.

    Raises:
        DataError: shapes that do not fit, fewer than two clusters, or (with `ridge` 0) features
            that are copies of each other or that part wins from losses without fail.

    Source: Newton's method; Liang & Zeger 1986 for the errors.
    """
    place = cluster_places(clusters)
    groups = int(place.max()) + 1 if len(place) else 0
    if x.ndim != 2 or not len(x) == len(wins) == len(place) or groups < 2:
        raise DataError(
            f"fit_logistic: rows {x.shape}, {len(wins)} outcomes, {groups} clusters. "
            "Give [N, D], one outcome and one cluster per row, two clusters or more."
        )
    penalty = ridge * np.eye(x.shape[1])
    weights = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS):
        p = expit(x @ weights)
        slope = x.T @ (wins - p) - ridge * weights
        step = np.clip(_solve(_curvature(x, p) + penalty, slope), -LONGEST_STEP, LONGEST_STEP)
        weights = weights + step
        if np.abs(step).max() < SETTLED:
            break
    else:
        raise DataError(NO_ANSWER)
    p = expit(x @ weights)
    scores = np.zeros((groups, x.shape[1]))
    np.add.at(scores, place, x * (wins - p)[:, None])
    inverse = np.linalg.inv(_curvature(x, p) + penalty)
    spread = inverse @ (scores.T @ scores) @ inverse * groups / (groups - 1)
    return Logistic(weights=weights, errors=np.sqrt(np.diag(spread)))


def _curvature(x: Array, p: Array) -> Array:
    return np.asarray(x.T @ (x * (p * (1 - p))[:, None]))


def _solve(matrix: Array, vector: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrix, vector))
    except np.linalg.LinAlgError as error:
        raise DataError(NO_ANSWER) from error
