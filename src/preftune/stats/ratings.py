"""Strengths of systems from who beat whom: Bradley–Terry by maximum likelihood, and Elo points."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csgraph

from preftune.errors import DataError
from preftune.stats.bootstrap import cluster_weights, percentile_interval
from preftune.stats.intervals import Interval

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Game = tuple[str, str, float]
"""(a, b, score of a): 1 won, 0 lost, 0.5 a tie."""
NEWTON_STEPS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratings:
    """Fitted strengths: P(a beats b) = sigmoid(strength a - strength b)."""

    names: tuple[str, ...]
    strength: Array  # [K], nats, sums to 0
    covariance: Array  # [K, K], nats squared, in the gauge where strengths sum to 0

    @property
    def standard_error(self) -> Array:
        """Standard error of each strength, [K], nats."""
        return np.sqrt(np.diag(self.covariance))

    def difference(self, a: str, b: str) -> tuple[float, float]:
        """Return strength a - strength b and its standard error, nats."""
        i, j = self.names.index(a), self.names.index(b)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        return float(self.strength[i] - self.strength[j]), math.sqrt(variance)


def win_matrix(games: Iterable[Game]) -> tuple[tuple[str, ...], Array]:
    """Return sorted names and wins [K, K] from (a, b, score of a): 1 won, 0 lost, 0.5 a tie."""
    columns = _columns(games)
    return columns.names, columns.wins(np.ones(len(columns.score)))


def bradley_terry(
    wins: ArrayLike, *, names: Sequence[str] | None = None, prior: float = 0.0
) -> Ratings:
    """Return the maximum-likelihood strengths of K items and their covariance, in nats.

    Standard errors come from the pseudo-inverse of the Fisher matrix Σ N p (1 - p). Won 3 : 1
    gives a difference of ln 3.

    Args:
        wins: [K, K], `wins[i, j]` = how often i beat j; a tie counts half on both sides.
        names: of the K items, for messages and results; `item 0`, … when left out.
        prior: this many virtual wins and as many losses of each item against an average one, >= 0.
            0 is plain maximum likelihood; above 0 every table has an answer, pulled towards 0.

    Raises:
        DataError: not a square table of counts, or (with `prior` 0) no finite answer: groups of
            items never compared, or items that won, or lost, everything against the rest.

    Source: Bradley & Terry 1952; existence: Ford 1957.
    """
    table = np.array(wins, dtype=float)
    count = len(table)
    labels = tuple(names) if names is not None else tuple(f"item {i}" for i in range(count))
    if table.shape != (count, count) or count < 2 or len(labels) != count:
        raise DataError(
            f"bradley_terry: wins {table.shape}, {len(labels)} names. Give [K, K] and K."
        )
    if not np.isfinite(table).all() or (table < 0).any() or not prior >= 0:
        raise DataError("bradley_terry: wins and prior must be finite and >= 0. Check the counts.")
    np.fill_diagonal(table, 0)
    if prior == 0:
        refuse_without_answer(table, labels)
    strength = _newton(table, prior)
    covariance = np.linalg.pinv(_fisher(table, strength, prior), hermitian=True)
    centre = np.eye(count) - 1 / count
    return Ratings(
        names=labels, strength=centre @ strength, covariance=centre @ covariance @ centre
    )


def strength_intervals(
    games: Iterable[Game],
    clusters: Sequence[Hashable],
    *,
    prior: float = 0.0,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the 95 % percentile interval of each strength, in nats, clusters drawn anew.

    Args:
        games: (a, b, score of a).
        clusters: the cluster of each game, such as its prompt.
        prior: as in `bradley_terry`; few games need one, for a draw may leave an item undefeated.
        rounds: how many times the clusters are drawn.
        seed: equal seeds give equal draws.

    Raises:
        DataError: as `bradley_terry` on any draw, or not one cluster per game.
    """
    columns = _columns(games)
    if len(clusters) != len(columns.score):
        raise DataError(
            f"strength_intervals: {len(columns.score)} games, {len(clusters)} clusters. "
            "Give one cluster per game."
        )
    drawn = [
        bradley_terry(columns.wins(weight), names=columns.names, prior=prior).strength
        for weight in cluster_weights(clusters, rounds=rounds, seed=seed)
    ]
    by_name = zip(columns.names, np.array(drawn).T, strict=True)
    return {name: percentile_interval(draws) for name, draws in by_name}


def elo(ratings: Ratings, *, mean: float = 1000.0) -> dict[str, float]:
    """Return points per name, best first: 400 points are odds of 10 : 1."""
    points = mean + 400 / math.log(10) * ratings.strength
    ordered = sorted(zip(ratings.names, points.tolist(), strict=True), key=lambda item: -item[1])
    return dict(ordered)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Games as columns [N]: places of a and b, score of a."""

    names: tuple[str, ...]
    a: Places
    b: Places
    score: Array

    def wins(self, weight: Array) -> Array:
        """Return wins [K, K], each game counted `weight` times."""
        count = len(self.names)
        won = np.bincount(self.a * count + self.b, weight * self.score, count**2)
        lost = np.bincount(self.b * count + self.a, weight * (1 - self.score), count**2)
        return np.asarray((won + lost).reshape(count, count))


def _columns(games: Iterable[Game]) -> _Columns:
    played = list(games)
    names = tuple(sorted({name for a, b, _ in played for name in (a, b)}))
    place = {name: index for index, name in enumerate(names)}
    return _Columns(
        names=names,
        a=np.array([place[a] for a, _, _ in played], dtype=np.int64),
        b=np.array([place[b] for _, b, _ in played], dtype=np.int64),
        score=np.array([score for _, _, score in played], dtype=float),
    )


def _newton(wins: Array, prior: float) -> Array:
    """Climb the concave log-likelihood; the last step is below 1e-12 nats."""
    strength = np.zeros(len(wins))
    for _ in range(NEWTON_STEPS):
        gradient = _gradient(wins, strength, prior)
        # Without a prior the sum is free; fixing it at 0 leaves every difference as it was.
        fisher = _fisher(wins, strength, prior) + (prior == 0) / len(wins)
        step = np.linalg.solve(fisher, gradient)
        step /= max(1.0, np.abs(step).max())  # at most one nat at once, so it cannot overshoot
        strength = strength + step
        if np.abs(step).max() < 1e-12:
            break
    return strength


def _gradient(wins: Array, strength: Array, prior: float) -> Array:
    expected = (wins + wins.T) * _win_probability(np.subtract.outer(strength, strength))
    pull = prior * (1 - 2 * _win_probability(strength))
    return np.asarray((wins - expected).sum(1) + pull)


def _fisher(wins: Array, strength: Array, prior: float) -> Array:
    p = _win_probability(np.subtract.outer(strength, strength))
    information = (wins + wins.T) * p * (1 - p)
    alone = _win_probability(strength)
    return np.diag(information.sum(1) + 2 * prior * alone * (1 - alone)) - information


def _win_probability(gap: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(gap / 2)))


def refuse_without_answer(wins: Array, names: tuple[str, ...]) -> None:
    """Raise `DataError`, naming the items, unless each is reachable from each along wins."""
    count, group = csgraph.connected_components(wins > 0, directed=True, connection="strong")
    if count == 1:
        return
    apart, island = csgraph.connected_components(wins > 0, directed=True, connection="weak")
    cure = "Compare them, or give a prior above 0."
    if apart > 1:
        groups = " | ".join(_named(names, island == i) for i in range(apart))
        raise DataError(f"bradley_terry: never compared with one another: {groups}. {cure}")
    for i in range(count):
        members = group == i
        if not (wins[~members][:, members]).any():
            raise DataError(
                f"bradley_terry: {_named(names, members)} never lost to the rest. {cure}"
            )
    raise AssertionError("a connected table that is not strongly connected has a group on top")


def _named(names: tuple[str, ...], chosen: NDArray[np.bool_]) -> str:
    return ", ".join(name for name, keep in zip(names, chosen, strict=True) if keep)
