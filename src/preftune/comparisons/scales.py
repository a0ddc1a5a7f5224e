"""Scales: seven grades, the shorter scales that map onto them, and what a grade means as odds."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from preftune.errors import DataError

EQUAL = 4
"""The grade in the middle of the seven: about equal, a tie."""

FIVE_LEVELS = (2, 3, EQUAL, 5, 6)
"""Grades of: first better, first slightly better, tie, second slightly better, second better."""

FOUR_LEVELS = (0, 1, 2, 3)
"""Strengths of: negligibly better or unsure, slightly better, better, significantly better."""

CUTS = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)
"""Where one grade ends and the next begins, in nats of how much better the second response is."""


def signed_strength(grade: int) -> int:
    """Return -3..3 of a grade 1..7: positive where the first response is better, 0 for a tie.

    Raises:
        DataError: a grade outside 1..7.
    """
    if not 1 <= grade <= 7:
        raise DataError(f"grade {grade}: not on the scale. Grades run from 1 to 7.")
    return EQUAL - grade


def grade_of(signed: int) -> int:
    """Return the grade 1..7 of a signed strength -3..3; undoes `signed_strength`.

    Raises:
        DataError: a strength outside -3..3.
    """
    if not -3 <= signed <= 3:
        raise DataError(f"strength {signed}: not on the scale. Signed strengths run from -3 to 3.")
    return EQUAL - signed


def grade_from_five(level: int) -> int:
    """Return the grade of level 1..5 of a five-point scale: its ends are better, not much better.

    Raises:
        DataError: a level outside 1..5.
    """
    if not 1 <= level <= 5:
        raise DataError(f"level {level}: not on the scale. Five-point levels run from 1 to 5.")
    return FIVE_LEVELS[level - 1]


def grade_from_four(level: int, *, better: int) -> int:
    """Return the grade of level 1..4 (negligibly … significantly better) for position `better`.

    A close call, level 1, is a tie whichever response was named.

    Raises:
        DataError: a level outside 1..4, or a position that is not 0 or 1.
    """
    if not 1 <= level <= 4 or better not in (0, 1):
        raise DataError(f"level {level}, better {better}: not on the scale. Use 1..4 and 0 or 1.")
    strength = FOUR_LEVELS[level - 1]
    return grade_of(strength if better == 0 else -strength)


def grade_probabilities(gap: float, cuts: Sequence[float] = CUTS) -> NDArray[np.float64]:
    """Return P(grade 1), …, P(grade 7) of a rater who sees `gap` through logistic noise.

    Proportional odds: P(grade > k) = sigmoid(gap - cuts[k - 1]). Gap 0 gives a symmetric row,
    whose middle, about equal, is .2449.

    Args:
        gap: how much better the second response is, in nats.
        cuts: rising; one fewer than there are grades.

    Raises:
        DataError: cuts that do not rise.

    Source: McCullagh 1980.
    """
    if any(low >= high for low, high in pairwise(cuts)):
        raise DataError(f"cuts {tuple(cuts)}: they do not rise. Give them in rising order.")
    above = 0.5 * (1 + np.tanh((gap - np.asarray(cuts, dtype=float)) / 2))
    return np.asarray(-np.diff(np.concatenate([[1.0], above, [0.0]])))
