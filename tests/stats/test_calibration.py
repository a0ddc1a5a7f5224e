"""Calibration from signed gaps: published definitions by hand, and what a slope can do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from preftune.errors import DataError
from preftune.stats.calibration import (
    brier_score,
    expected_calibration_error,
    fit_slope,
    log_loss,
    reliability,
)

CHANCES = np.array([0.93, 0.85, 0.72, 0.66, 0.54, 0.88, 0.61, 0.31])
FIRST_WON = np.array([1, 1, 1, 0, 1, 0, 1, 0])
GAPS = list(logit(CHANCES) * (2 * FIRST_WON - 1))
SLOPE_GAPS = [3.0, 1.5, -2.0, 4.0, 0.5, -1.0]


def test_figures_of_eight_pairs_match_the_golden_values() -> None:
    assert expected_calibration_error(GAPS) == pytest.approx(0.285, abs=1e-9)
    assert brier_score(GAPS) == pytest.approx(0.22195, abs=1e-9)
    assert log_loss(GAPS) == pytest.approx(0.655527, abs=1e-6)


def test_figures_equal_those_of_another_library() -> None:
    assert brier_score(GAPS) == pytest.approx(brier_score_loss(FIRST_WON, CHANCES))
    assert log_loss(GAPS) == pytest.approx(sklearn_log_loss(FIRST_WON, CHANCES))


def test_slope_matches_the_golden_value() -> None:
    slope = fit_slope(SLOPE_GAPS)
    assert slope == pytest.approx(0.426806, abs=1e-6)
    assert log_loss(SLOPE_GAPS) == pytest.approx(0.697070, abs=1e-6)
    assert log_loss([slope * gap for gap in SLOPE_GAPS]) == pytest.approx(0.594168, abs=1e-6)


@given(st.floats(1e-3, 1e3))
def test_slope_of_scaled_gaps_is_the_inverse(scale: float) -> None:
    found = fit_slope([scale * gap for gap in SLOPE_GAPS])
    assert found == pytest.approx(fit_slope(SLOPE_GAPS) / scale, rel=1e-8)


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20))
def test_no_other_slope_has_a_smaller_log_loss(more: list[float]) -> None:
    gaps = [*SLOPE_GAPS, *SLOPE_GAPS, *more]
    if sum(gaps) <= 0:
        return
    best = fit_slope(gaps)
    for other in (0.9 * best, 1.1 * best):
        assert log_loss([best * g for g in gaps]) <= log_loss([other * g for g in gaps]) + 1e-12


def test_bins_have_equal_width_and_hold_every_pair_once() -> None:
    found = reliability([0.0, 0.1, -0.1, 9.0, -9.0, 50.0], bins=5)
    assert [one.pairs for one in found] == [3, 3]
    assert (found[0].low, found[0].high) == pytest.approx((0.5, 0.6))
    assert found[0].accuracy == pytest.approx(1 / 3)  # a tie counts as wrong
    assert found[1].accuracy == pytest.approx(2 / 3)
    assert found[1].confidence == pytest.approx(1.0, abs=1e-4)


def test_confidence_that_comes_true_has_no_error() -> None:
    gap = math.log(3)  # sigmoid .75: right three times of four
    assert expected_calibration_error([gap, gap, gap, -gap]) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error([3 * gap, 3 * gap, 3 * gap, -3 * gap]) > 0.2


def test_gaps_that_fix_no_slope_are_refused() -> None:
    with pytest.raises(DataError, match="all 3 pairs are scored right"):
        fit_slope([1.0, 2.0, 0.0])
    with pytest.raises(DataError, match="no better than chance"):
        fit_slope([1.0, -1.0])
    with pytest.raises(DataError, match="no better than chance"):
        fit_slope([1.0, -3.0])
    with pytest.raises(DataError, match="no pairs"):
        fit_slope([])
    with pytest.raises(DataError, match="NaN or infinite"):
        log_loss([1.0, math.nan])
