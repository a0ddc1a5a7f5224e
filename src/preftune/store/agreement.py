"""How well the raters of a project agree, fast enough to be looked at while they work."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.stats.agreement import Level, alpha_of_counts
from preftune.store.verdicts import REWRITTEN, Floats, Verdicts, last_of

ROUNDS = 1000
LEVEL_OF: dict[str, Level] = {"scale": "ordinal"}  # of a kind of project; every other is nominal


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
    level: Level  # nominal or ordinal
    alpha: float | None
    low: float | None  # 95 %, from drawing items anew
    high: float | None
    items: int  # with verdicts of two raters or more
    verdicts: int  # on these


def agreement(
    said: Verdicts, dimension: str, *, level: Level = "nominal", rounds: int = ROUNDS, seed: int = 0
) -> Agreement:
    """Return alpha over the items to be labelled, with the interval from drawing items anew.

    A rater's later verdict on an item replaces the earlier one.

    Args:
        said: without the raters who are to be left out.
        dimension: one of the project's.
        level: ordinal takes the seven grades in their order, nominal the best response or a tie.
        rounds: draws.
        seed: equal seeds give equal intervals.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.
    """
    counts, values = _counts(said, dimension, level)
    found = alpha_of_counts(counts, values, level=level, rounds=rounds, seed=seed)
    return Agreement(
        dimension=dimension,
        level=level,
        alpha=found.alpha,
        low=found.low,
        high=found.high,
        items=found.units,
        verdicts=found.votes,
    )


def leave_out(said: Verdicts, users: set[str]) -> Verdicts:
    """Return what the other raters said."""
    gone = np.array([name in users for name in said.users], dtype=np.bool_)
    return said.where(~gone[said.user]) if gone.any() else said


def _counts(said: Verdicts, dimension: str, level: Level) -> tuple[NDArray[np.int64], Floats]:
    """Return how often each value was said of each item [U, V], and the values [V]."""
    place = said.dimensions.index(dimension) if dimension in said.dimensions else -1
    ours = said.where(said.counts & (said.dimension == place) & (said.side != REWRITTEN))
    last = last_of((ours.item, ours.user), ours)
    value = ours.signed if level == "ordinal" else ours.side.astype(np.float64)
    known = last[~np.isnan(value[last])]
    values, code = np.unique(value[known], return_inverse=True)
    if not len(known):
        return np.zeros((0, 1), np.int64), np.zeros(1)
    _, unit = np.unique(ours.item[known], return_inverse=True)
    width = len(values)
    cells = np.bincount(unit * width + code, minlength=(unit.max() + 1) * width)
    return cells.reshape(-1, width), values
