"""Strengths where comparisons may end in a tie: Davidson's model, and Rao and Kupper's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.ratings import NEWTON_STEPS, Ratings, bradley_terry, refuse_without_answer

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TieRatings:
    """Fitted strengths and how easily two items tie."""

    ratings: Ratings
    tie: float  # Davidson's nu >= 0 or Rao and Kupper's theta >= 1
    tie_error: float  # standard error of its logarithm; 0 where nobody ever tied


def davidson_probabilities(gap: ArrayLike, nu: ArrayLike) -> tuple[Array, Array, Array]:
    """Return P(first better), P(tie), P(second better) at a gap in nats: e^(d/2) : nu : e^(-d/2).

    Gap .7 and nu 1 give .454283, .320127, .225590; nu 0 is Bradley–Terry.

    Source: Davidson 1970, J. Am. Stat. Assoc. 65.
    """
    half = np.asarray(gap, dtype=float) / 2
    top = np.abs(half)  # every term is divided by e^|d/2|, so none overflows
    first, tie, second = np.exp(half - top), np.asarray(nu) * np.exp(-top), np.exp(-half - top)
    total = first + tie + second
    return first / total, tie / total, second / total


def rao_kupper_probabilities(gap: ArrayLike, theta: float) -> tuple[Array, Array, Array]:
    """Return P(first better), P(tie), P(second better): sigmoid(d - ln theta), rest, its mirror.

    Gap .7 and theta 2 give .501713, .299381, .198906; theta 1 is Bradley–Terry.

    Source: Rao and Kupper 1967, J. Am. Stat. Assoc. 62.
    """
    d, step = np.asarray(gap, dtype=float), math.log(theta)
    first, second = _sigmoid(d - step), _sigmoid(-d - step)
    return first, first * second * (theta**2 - 1), second


def davidson(
    wins: ArrayLike, ties: ArrayLike, *, names: Sequence[str] | None = None, prior: float = 0.0
) -> TieRatings:
    """Return the maximum-likelihood strengths and nu of Davidson's model.

    Two items with 3 : 1 wins and 2 ties: a difference of ln 3, nu = 2 / sqrt(3).

    Args:
        wins: [K, K], `wins[i, j]` = how often i beat j, ties left out.
        ties: [K, K], `ties[i, j]` = how often i and j tied; symmetric.
        names: of the K items; `item 0`, … when left out.
        prior: virtual wins and losses against an average item, as in `bradley_terry`.

    Raises:
        DataError: tables that are not counts of one shape, ties that are not symmetric, no decided
            comparison, or no finite answer (as `bradley_terry`; a tie links two items both ways).

    Source: Davidson 1970.
    """
    return _fit(_games(wins, ties, names, prior), _davidson_slopes)


def rao_kupper(
    wins: ArrayLike, ties: ArrayLike, *, names: Sequence[str] | None = None, prior: float = 0.0
) -> TieRatings:
    """Return the maximum-likelihood strengths and theta of Rao and Kupper's model.

    Small gaps go unnoticed: |felt gap| < ln theta is a tie. Two items with 5 : 5 wins and 10 ties:
    no difference, theta = 3. Arguments and errors as `davidson`.

    Source: Rao and Kupper 1967.
    """
    return _fit(_games(wins, ties, names, prior), _rao_kupper_slopes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Games:
    """Every two items that met, i < j, with their counts [E]."""

    names: tuple[str, ...]
    wins: Array  # [K, K]
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    won: Array
    tied: Array
    lost: Array
    prior: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slopes:
    """First and (negative) second derivatives of the log-likelihood in gap and log tie, [E]."""

    gap: Array
    tie: Array
    gap_gap: Array
    gap_tie: Array
    tie_tie: Array


def _games(wins: ArrayLike, ties: ArrayLike, names: Sequence[str] | None, prior: float) -> _Games:
    won, tied = np.array(wins, dtype=float), np.array(ties, dtype=float)
    count = len(won)
    labels = tuple(names) if names is not None else tuple(f"item {i}" for i in range(count))
    if won.shape != (count, count) or tied.shape != won.shape or count < 2 or len(labels) != count:
        raise DataError(
            f"wins {won.shape}, ties {tied.shape}, {len(labels)} names. Give [K, K] twice and K."
        )
    counts = np.concatenate([won, tied])
    if not np.isfinite(counts).all() or (counts < 0).any() or not prior >= 0:
        raise DataError("wins, ties and prior must be finite and >= 0. Check the counts.")
    if (tied != tied.T).any():
        raise DataError("ties are not symmetric: ties[i, j] and ties[j, i] are one count. Mend it.")
    np.fill_diagonal(won, 0)
    np.fill_diagonal(tied, 0)
    if not won.any():
        raise DataError("every comparison is a tie: there is no order to find. Add decided ones.")
    if prior == 0:
        refuse_without_answer(won + tied, labels)
    i, j = np.nonzero(np.triu(won + won.T + tied))
    return _Games(
        names=labels,
        wins=won,
        i=i,
        j=j,
        won=won[i, j],
        tied=tied[i, j],
        lost=won[j, i],
        prior=prior,
    )


def _fit(games: _Games, slopes: Callable[[_Games, Array, float], _Slopes]) -> TieRatings:
    """Climb the concave log-likelihood in (strengths, log tie) by Newton steps."""
    if not games.tied.any():
        plain = bradley_terry(games.wins, names=games.names, prior=games.prior)
        none = 0.0 if slopes is _davidson_slopes else 1.0
        return TieRatings(ratings=plain, tie=none, tie_error=0.0)
    count = len(games.names)
    at = np.zeros(count + 1)
    at[-1] = math.log(2.0)
    for _ in range(NEWTON_STEPS):
        gradient, information = _assembled(games, slopes, at)
        step = np.linalg.pinv(information, hermitian=True) @ gradient
        step /= max(1.0, np.abs(step).max())
        if slopes is _rao_kupper_slopes:
            step[-1] = max(step[-1], -at[-1] / 2)  # its logarithm stays above 0
        at = at + step
        if np.abs(step).max() < 1e-12:
            break
    covariance = np.linalg.pinv(_assembled(games, slopes, at)[1], hermitian=True)
    centre = np.eye(count) - 1 / count
    ratings = Ratings(
        names=games.names,
        strength=centre @ at[:-1],
        covariance=centre @ covariance[:-1, :-1] @ centre,
    )
    error = math.sqrt(covariance[-1, -1])
    return TieRatings(ratings=ratings, tie=math.exp(at[-1]), tie_error=error)


def _assembled(
    games: _Games, slopes: Callable[[_Games, Array, float], _Slopes], at: Array
) -> tuple[Array, Array]:
    """Return gradient [K + 1] and information [K + 1, K + 1]; the last place is the tie's."""
    i, j, count = games.i, games.j, len(at) - 1
    found = slopes(games, at[i] - at[j], float(at[-1]))
    alone = _sigmoid(at[:-1])
    gradient = np.zeros(count + 1)
    gradient[:-1] = games.prior * (1 - 2 * alone) + _difference(i, j, found.gap, count)
    gradient[-1] = found.tie.sum()
    information = np.diag(np.append(2 * games.prior * alone * (1 - alone), found.tie_tie.sum()))
    for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
        np.add.at(information, (a, b), sign * found.gap_gap)
    crossed = _difference(i, j, found.gap_tie, count)
    information[:-1, -1] = crossed
    information[-1, :-1] = crossed
    return gradient, information


def _difference(i: NDArray[np.int64], j: NDArray[np.int64], values: Array, count: int) -> Array:
    """Return, by item, the values of its games as i less those of its games as j."""
    return np.asarray(np.bincount(i, values, count) - np.bincount(j, values, count))


def _davidson_slopes(games: _Games, gap: Array, log_nu: float) -> _Slopes:
    first, tie, second = davidson_probabilities(gap, math.exp(log_nu))
    n, mean = games.won + games.tied + games.lost, (first - second) / 2
    return _Slopes(
        gap=(games.won - games.lost) / 2 - n * mean,
        tie=games.tied - n * tie,
        gap_gap=n * ((first + second) / 4 - mean**2),
        gap_tie=-n * tie * mean,
        tie_tie=n * tie * (1 - tie),
    )


def _rao_kupper_slopes(games: _Games, gap: Array, log_theta: float) -> _Slopes:
    first, second = _sigmoid(gap - log_theta), _sigmoid(-gap - log_theta)
    up, down = games.won + games.tied, games.lost + games.tied  # log P(tie) holds both factors
    bend_up, bend_down = up * first * (1 - first), down * second * (1 - second)
    square = math.exp(2 * log_theta)
    return _Slopes(
        gap=up * (1 - first) - down * (1 - second),
        tie=games.tied * 2 * square / (square - 1) - up * (1 - first) - down * (1 - second),
        gap_gap=bend_up + bend_down,
        gap_tie=bend_down - bend_up,
        tie_tie=games.tied * 4 * square / (square - 1) ** 2 + bend_up + bend_down,
    )


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
