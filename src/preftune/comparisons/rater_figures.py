"""What is counted of each rater, in one place: the side taken, repeats, agreement with the others.

Every function gives one share per rater, in the order of the table, None where nothing was there to
count. Intervals know prompts (or comparisons), as the table says.
"""

import numpy as np
from numpy.typing import NDArray

from preftune.comparisons.vote_table import Flags, VoteTable
from preftune.stats.shares import Array, Share, grouped_shares
from preftune.types import RaterKind


def by_rater(votes: VoteTable, values: Array | Flags, *, level: float = 0.95) -> list[Share | None]:
    """Return the mean of a value per vote, for each rater."""
    return grouped_shares(
        values,
        groups=votes.rater,
        clusters=votes.cluster[votes.unit],
        count=len(votes.raters),
        level=level,
    )


def first_shares(votes: VoteTable, *, level: float = 0.95) -> list[Share | None]:
    """Return how often each rater takes the response shown first, of the decided votes."""
    decided = votes.where(votes.shown != 0)
    return by_rater(decided, decided.shown > 0, level=level)


def repeat_shares(votes: VoteTable, *, level: float = 0.95) -> list[Share | None]:
    """Return how often a vote equals the rater's previous one on the same unit, either order."""
    key = votes.rater * len(votes.units) + votes.unit
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(np.diff(key[order]) == 0)
    before, after = order[again], order[again + 1]
    later = np.zeros(len(votes), dtype=bool)
    later[after] = True
    same = np.zeros(len(votes), dtype=bool)
    same[after] = votes.vote[before] == votes.vote[after]
    return by_rater(votes.where(later), same[later], level=level)


def majority_shares(
    votes: VoteTable, *, kind: RaterKind, level: float = 0.95
) -> list[Share | None]:
    """Return how often each rater sides with the majority of the others, where both decided.

    The last vote of a rater in each order counts. Two against one: the one never agrees.

    Args:
        votes: of all raters.
        kind: whose majority it is; raters of other kinds are measured by it as well.
        level: of the intervals.
    """
    last = votes.where(votes.last(by_order=True))
    vote = last.vote.astype(np.int64)
    counts = np.array([found == kind for found in votes.kinds], dtype=bool)[last.rater]
    total = np.bincount(last.unit, vote * counts, minlength=len(votes.units))
    others = total[last.unit] - _own(last, vote * counts)
    heard = (vote != 0) & (others != 0)
    return by_rater(last.where(heard), (others > 0)[heard] == (vote > 0)[heard], level=level)


def _own(votes: VoteTable, value: NDArray[np.int64]) -> Array:
    """Return, per vote, the sum of the value over all votes of its rater on its unit."""
    key = votes.rater * len(votes.units) + votes.unit
    _, place = np.unique(key, return_inverse=True)
    return np.asarray(np.bincount(place, value)[place]) if len(key) else np.zeros(0)
