"""Bradley–Terry with raters: strengths of systems, and each rater's skill and side bias.

The first shown is ahead by `skill · (its strength - the other's) + side` nats; ties by Davidson.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from preftune.errors import DataError
from preftune.stats.ratings import refuse_without_answer
from preftune.stats.ties import davidson_probabilities

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Judged = tuple[str, str, str, float]
"""(rater, first shown, second shown, score of the first): 1 won, 0 lost, 0.5 a tie."""
NEVER = -40.0  # log nu where nobody ever tied: 4e-18


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterRatings:
    """Strengths of the systems in nats, which sum to 0, as a rater of skill 1 sees them."""

    strength: dict[str, float]
    skill: dict[str, float]  # per rater, mean 1; below 0 is an adversary
    side: dict[str, float]  # per rater, nats in favour of the first shown
    side_error: dict[str, float]  # its standard error
    tie: float  # Davidson's nu


def rater_ratings(games: Iterable[Judged]) -> RaterRatings:
    """Return the maximum-likelihood strengths, skills, side biases and nu.

    At a gap of .7, skill 1.5 and side .3 the stronger wins .794130 of its decided games when shown
    first, .679180 when shown second. One rater has skill 1 by definition.

    Raises:
        DataError: no games, a score other than 0, 0.5 and 1, systems without a finite strength (as
            `bradley_terry`), or raters who contradict each other so that mean skill is not above 0.

    Source: Davidson 1970 for ties; Davidson and Beaver 1977, Biometrics 33, for the order shown.
    """
    table = _tabled(games)
    systems, raters = len(table.systems), len(table.raters)
    start = np.concatenate([np.zeros(systems), np.ones(raters), np.zeros(raters), [NEVER]])
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * (len(start) - 1)
    if table.count[:, 1].any():
        start[-1], bounds = 0.0, [*bounds, (None, None)]
    else:
        bounds = [*bounds, (NEVER, NEVER)]
    limits = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 100_000}
    found = minimize(
        lambda at: _loss(table, at),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=limits,
    )
    return _named(table, np.asarray(found.x))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """Each (rater, first, second) once [N], with how often it was won, tied, lost [N, 3]."""

    systems: tuple[str, ...]
    raters: tuple[str, ...]
    rater: Places
    first: Places
    second: Places
    count: Array

    def split(self, at: Array) -> tuple[Array, Array, Array, float]:
        """Return strengths, skills, sides and nu of a parameter vector."""
        systems, raters = len(self.systems), len(self.raters)
        skills = at[systems : systems + raters]
        return at[:systems], skills, at[systems + raters : -1], math.exp(at[-1])


def _tabled(games: Iterable[Judged]) -> _Table:
    cells = Counter(games)
    if not cells or not {score for *_, score in cells} <= {0.0, 0.5, 1.0}:
        raise DataError("rater_ratings: needs games scored 0, 0.5 or 1. Check the scores.")
    systems = tuple(sorted({name for _, a, b, _ in cells for name in (a, b)}))
    raters = tuple(sorted({rater for rater, *_ in cells}))
    rows = sorted({(rater, a, b) for rater, a, b, _ in cells})
    count = np.array([[cells[*row, score] for score in (1.0, 0.5, 0.0)] for row in rows], float)
    first = np.array([systems.index(a) for _, a, _ in rows])
    second = np.array([systems.index(b) for _, _, b in rows])
    met = np.zeros((len(systems), len(systems)))
    np.add.at(met, (first, second), count[:, 0] + count[:, 1])
    np.add.at(met, (second, first), count[:, 2] + count[:, 1])
    refuse_without_answer(met, systems)
    return _Table(
        systems=systems,
        raters=raters,
        rater=np.array([raters.index(rater) for rater, *_ in rows]),
        first=first,
        second=second,
        count=count,
    )


def _loss(table: _Table, at: Array) -> tuple[float, Array]:
    """Return the mean -log-likelihood of the games, in nats, and its gradient."""
    strength, skill, side, nu = table.split(at)
    gap = strength[table.first] - strength[table.second]
    lead = skill[table.rater] * gap + side[table.rater]
    first, tie, second = davidson_probabilities(lead, nu)
    n = table.count.sum(1)
    felt = (table.count[:, 0] - table.count[:, 2]) / 2 - n * (first - second) / 2
    said = np.stack([first, tie, second], axis=1)
    log = np.log(said, out=np.zeros_like(said), where=table.count > 0)
    systems, raters = len(strength), len(skill)
    pull = felt * skill[table.rater]
    gradient = np.concatenate(
        [
            np.bincount(table.first, pull, systems) - np.bincount(table.second, pull, systems),
            np.bincount(table.rater, felt * gap, raters),
            np.bincount(table.rater, felt, raters),
            [(table.count[:, 1] - n * tie).sum()],
        ]
    )
    return -float((table.count * log).sum() / n.sum()), -gradient / n.sum()


def _named(table: _Table, at: Array) -> RaterRatings:
    strength, skill, side, nu = table.split(at)
    scale = skill.mean()
    if scale <= 0:
        raise DataError(
            "rater_ratings: the raters contradict each other, no order is common to most. "
            "Look at each alone with bradley_terry."
        )
    errors = np.sqrt(np.diag(np.linalg.pinv(_information(table, at), hermitian=True)))
    strength = (strength - strength.mean()) * scale
    first_side = len(strength) + len(skill)

    def by(names: tuple[str, ...], values: Array) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=True))

    return RaterRatings(
        strength=by(table.systems, strength),
        skill=by(table.raters, skill / scale),
        side=by(table.raters, side),
        side_error=by(table.raters, errors[first_side:-1]),
        tie=nu if table.count[:, 1].any() else 0.0,
    )


def _information(table: _Table, at: Array) -> Array:
    """Return the Fisher information of all parameters; sides do not depend on the free scale."""
    strength, skill, side, nu = table.split(at)
    gap = strength[table.first] - strength[table.second]
    lead = skill[table.rater] * gap + side[table.rater]
    first, tie, second = davidson_probabilities(lead, nu)
    row, systems, raters = np.arange(len(gap)), len(strength), len(skill)
    slope = np.zeros((len(gap), len(at)))  # of the lead, by parameter
    slope[row, table.first] = skill[table.rater]
    slope[row, table.second] = -skill[table.rater]
    slope[row, systems + table.rater] = gap
    slope[row, systems + raters + table.rater] = 1.0
    n, mean = table.count.sum(1), (first - second) / 2
    bend = n * ((first + second) / 4 - mean**2)
    information = slope.T @ (bend[:, None] * slope)
    crossed = slope.T @ (-n * tie * mean)
    information[-1] += crossed
    information[:, -1] += crossed
    information[-1, -1] += (n * tie * (1 - tie)).sum()
    return np.asarray(information)
