"""Whether the probabilities of a Bradley–Terry model are what they say, and how to mend them.

Everything is taken from signed gaps: how far the side that won was scored above the one that lost,
in nats of log-odds. A gap of 0 is a tie and counts as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.errors import DataError

BINS = 10
ROUNDING = 1e-12
LARGEST_SLOPE = 1e12  # times the inverse of the largest gap


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The pairs whose confidence lies in one range; `pairs` is at least 1."""

    low: float
    high: float
    pairs: int
    confidence: float  # mean of sigmoid(|gap|)
    accuracy: float  # share with a gap above 0


def reliability(gaps: Sequence[float], *, bins: int = BINS) -> list[Bin]:
    """Return the bins of confidence that hold a pair: `bins` ranges of equal width over ½..1.

    Raises:
        DataError: no gaps, or one that is not finite.
    """
    signed = _checked(gaps)
    confidence = _sigmoid(np.abs(signed))
    edges = np.linspace(0.5, 1.0, bins + 1)
    exact = confidence + ROUNDING  # an edge belongs to the bin above it
    places = np.clip(np.searchsorted(edges, exact, side="right") - 1, 0, bins - 1)
    return [
        Bin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            pairs=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float((signed[inside] > 0).mean()),
        )
        for place in range(bins)
        if (inside := places == place).any()
    ]


def expected_calibration_error(gaps: Sequence[float], *, bins: int = BINS) -> float:
    """Return the mean over pairs of |mean confidence - accuracy| of their bin, 0..½.

    Few pairs make it larger than it is: a perfect model shows up to about 0.4 / sqrt(pairs
    per bin) all the same.

    Raises:
        DataError: as `reliability`.

    Source: Guo et al. 2017, arXiv:1706.04599, with the confidence of a pair folded into ½..1.
    """
    found = reliability(gaps, bins=bins)
    errors = sum(one.pairs * abs(one.confidence - one.accuracy) for one in found)
    return errors / sum(one.pairs for one in found)


def brier_score(gaps: Sequence[float]) -> float:
    """Return the mean of (1 - sigmoid(gap))²; a coin gives 0.25.

    Raises:
        DataError: as `reliability`.
    """
    return float((_sigmoid(-_checked(gaps)) ** 2).mean())


def log_loss(gaps: Sequence[float]) -> float:
    """Return the mean of -log sigmoid(gap) in nats; a coin gives log 2 = 0.6931.

    Raises:
        DataError: as `reliability`.
    """
    return float(np.logaddexp(0.0, -_checked(gaps)).mean())


def fit_slope(gaps: Sequence[float]) -> float:
    """Return the slope that makes the log loss of slope * gap least; above 0, so no rank changes.

    The gaps 3, 1.5, -2, 4, 0.5, -1 give 0.426806: they were too sure. Its inverse is called the
    temperature.

    Raises:
        DataError: no gaps; all gaps right, where no slope is large enough; or gaps that are wrong
            as often as right, where only a slope of 0 or below would help.

    Source: Guo et al. 2017, arXiv:1706.04599 (temperature scaling).
    """
    signed = _checked(gaps)
    if not (signed < 0).any():
        raise DataError(
            f"all {len(signed)} pairs are scored right, so no slope is the best. Give more pairs."
        )
    if signed.sum() <= 0:
        raise DataError(
            "the scores rank these pairs no better than chance. Nothing can be calibrated: look "
            "at the pairs, or train again."
        )

    def rising(slope: float) -> float:
        return float((_sigmoid(-slope * signed) * signed).sum())

    from scipy.optimize import brentq

    scale = 1 / np.abs(signed).max()
    return float(brentq(rising, 0.0, LARGEST_SLOPE * scale, xtol=1e-12 * scale, rtol=1e-12))


def _checked(gaps: Sequence[float]) -> NDArray[np.float64]:
    signed = np.asarray(gaps, dtype=np.float64)
    if not signed.size:
        raise DataError("no pairs. Give at least one.")
    if not np.isfinite(signed).all():
        raise DataError("a gap between scores is NaN or infinite. Look at the reward model.")
    return signed


def _sigmoid(nats: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    found: NDArray[np.float64] = expit(nats)
    return found
