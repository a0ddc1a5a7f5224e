"""How well the raters of a project agree, fast enough to be looked at while they work."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.store.verdicts import REWRITTEN, Floats, Verdicts, last_of

ROUNDS = 1000
LEVEL_OF = {"scale": "ordinal"}  # of a kind of project; every other is nominal


@dataclass(frozen=True, kw_only=True, slots=True)
class RealSet:
    """A public set of human preferences and the agreement in it."""

    name: str
    alpha: float


REAL_SETS = {
    "nominal": (
        RealSet(name="essay arguments, crowd (ukp-convarg)", alpha=0.284),
        RealSet(name="chat answers, crowd (llmfao)", alpha=0.304),
        RealSet(name="instructions, curated items (pandalm)", alpha=0.861),
    ),
    "ordinal": (
        RealSet(name="chat answers, crowd (llmfao)", alpha=0.292),
        RealSet(name="instructions, staff (tulu1-human)", alpha=0.473),
    ),
}
"""Krippendorff's alpha in real sets, by level; tests of comparisons and stats recompute them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Krippendorff's alpha in one dimension: 1 is full agreement, 0 is chance.

    `alpha` is None where nothing can be said: no item with two raters, or all said the same.
    """

    dimension: str
    level: str  # nominal or ordinal
    alpha: float | None
    low: float | None  # 95 %, from drawing items anew
    high: float | None
    items: int  # with verdicts of two raters or more
    verdicts: int  # on these


def agreement(
    said: Verdicts, dimension: str, *, level: str = "nominal", rounds: int = ROUNDS, seed: int = 0
) -> Agreement:
    """Return alpha over the items to be labelled, with the interval from drawing items anew.

    A rater's later verdict on an item replaces the earlier one. Items on which the same values were
    said equally often count as one kind, and a draw of items is a draw of how often each kind
    comes; so a thousand draws of a million verdicts take no longer than those of a thousand.

    Args:
        said: without the raters who are to be left out.
        dimension: one of the project's.
        level: ordinal takes the seven grades in their order, nominal the best response or a tie.
        rounds: draws.
        seed: equal seeds give equal intervals.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    kinds, times, values = _kinds(said, dimension, level)
    nothing = Agreement(
        dimension=dimension,
        level=level,
        alpha=None,
        low=None,
        high=None,
        items=int(times.sum()),
        verdicts=int(kinds.sum(1) @ times),
    )
    if not len(times):
        return nothing
    found = _alpha(kinds, times[None], values, level)[0]
    if np.isnan(found):
        return nothing
    total = int(times.sum())
    draws = np.random.default_rng(seed).multinomial(total, times / total, size=rounds)
    drawn = np.nan_to_num(_alpha(kinds, draws, values, level), nan=1.0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Agreement(
        dimension=dimension,
        level=level,
        alpha=float(found),
        low=float(low),
        high=float(high),
        items=nothing.items,
        verdicts=nothing.verdicts,
    )


def leave_out(said: Verdicts, users: set[str]) -> Verdicts:
    """Return what the other raters said."""
    gone = np.array([name in users for name in said.users], dtype=np.bool_)
    return said.where(~gone[said.user]) if gone.any() else said


def _kinds(
    said: Verdicts, dimension: str, level: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return kinds of items, how many there are of each, and the values.

    A kind is how often each value was said [K, V]; items with less than two verdicts are left out.
    """
    place = said.dimensions.index(dimension) if dimension in said.dimensions else -1
    ours = said.where(said.counts & (said.dimension == place) & (said.side != REWRITTEN))
    last = last_of((ours.item, ours.user), ours)
    value = ours.signed if level == "ordinal" else ours.side.astype(np.float64)
    known = last[~np.isnan(value[last])]
    values, code = np.unique(value[known], return_inverse=True)
    _, unit = np.unique(ours.item[known], return_inverse=True)
    if not len(known):
        return np.zeros((0, 1), np.int64), np.zeros(0, np.int64), values
    width = len(values)
    cells = np.bincount(unit * width + code, minlength=(unit.max() + 1) * width)
    counts = cells.reshape(-1, width)
    kinds, times = np.unique(counts[counts.sum(1) >= 2], axis=0, return_counts=True)
    return kinds, times, values


def _alpha(
    kinds: NDArray[np.int64], times: NDArray[np.int64], values: Floats, level: str
) -> Floats:
    """Return alpha for each draw [R, K] of how often each kind comes; nan where all is one value.

    1 - (n - 1) Σ o_cv d_cv / Σ n_c n_v d_cv, o the coincidences within items, n their margins.
    """
    size = kinds.sum(1)
    pairs = kinds[:, :, None] * kinds[:, None, :] - kinds[:, :, None] * np.eye(len(values))
    coincidence = np.tensordot(times / (size - 1), pairs, axes=1)  # [R, V, V]
    margin = coincidence.sum(2)
    if level == "ordinal":
        where = np.cumsum(margin, axis=1) - margin / 2
        distance = (where[:, :, None] - where[:, None, :]) ** 2
    else:
        distance = np.broadcast_to(1 - np.eye(len(values)), coincidence.shape)
    observed = (coincidence * distance).sum((1, 2))
    expected = np.einsum("rc,rcv,rv->r", margin, distance, margin)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1 - (margin.sum(1) - 1) * observed / expected
    return np.where(expected > 0, found, np.nan)
