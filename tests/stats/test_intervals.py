import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from preftune.errors import DataError
from preftune.stats.intervals import (
    Interval,
    clustered_se,
    detectable_gain,
    non_inferiority_n,
    power_half_width,
    wilson,
    zero_failure_bound,
)


def test_wilson_matches_published_values() -> None:
    found = wilson(60, 100)
    assert (found.low, found.high) == pytest.approx((0.502003, 0.690599), abs=5e-7)
    assert wilson(0, 60).low == 0.0
    assert wilson(0, 60).high == pytest.approx(0.060172, abs=5e-7)
    assert wilson(60, 60).high == 1.0


@given(st.integers(1, 500), st.data())
def test_wilson_equals_statsmodels(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    level = data.draw(st.sampled_from([0.8, 0.9, 0.95, 0.99]))
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    found = wilson(k, n, level=level)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(DataError, match=f"{k} of {n}"):
        wilson(k, n)


def test_wilson_refuses_a_level_of_95() -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        wilson(1, 2, level=95)


def test_zero_failure_bound_is_exact_and_near_the_rule_of_three() -> None:
    assert zero_failure_bound(60) == pytest.approx(0.048703, abs=5e-7)
    assert (1 - zero_failure_bound(60)) ** 60 == pytest.approx(0.05)
    assert zero_failure_bound(60) < 3 / 60


def test_clustered_se_matches_hand_calculation() -> None:
    # sums around the mean ½: 1, -1, 0; sqrt(2) / 6 = .235702, times sqrt(3 / 2)
    found = clustered_se([1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "c"])
    assert found == pytest.approx(0.288675, abs=5e-7)
    assert found == pytest.approx(math.sqrt(2) / 6 * math.sqrt(1.5))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_clustered_se_of_single_items_is_the_usual_standard_error(values: list[float]) -> None:
    usual = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    assert clustered_se(values, list(range(len(values)))) == pytest.approx(usual, abs=1e-12)


def test_clustered_se_refuses_one_cluster_and_unequal_lengths() -> None:
    with pytest.raises(DataError, match="1 cluster"):
        clustered_se([1.0, 2.0], ["a", "a"])
    with pytest.raises(DataError, match="3 values, 2 clusters"):
        clustered_se([1.0, 2.0, 3.0], ["a", "b"])


def test_power_line_matches_the_table() -> None:
    assert power_half_width(200) == pytest.approx(0.0693, abs=5e-5)
    assert detectable_gain(200) == pytest.approx(0.099, abs=5e-4)


@pytest.mark.parametrize(("discordance", "n"), [(0.02, 310), (0.05, 773), (0.1, 1546)])
def test_non_inferiority_sample_size_matches_the_table(discordance: float, n: int) -> None:
    assert non_inferiority_n(discordance=discordance, margin=0.02) == n


def test_non_inferiority_refuses_a_margin_of_0() -> None:
    with pytest.raises(DataError, match="margin"):
        non_inferiority_n(discordance=0.1, margin=0.0)


def test_interval_is_a_frozen_record() -> None:
    with pytest.raises(AttributeError):
        Interval(low=0.0, high=1.0).low = 0.5  # type: ignore[misc]  # the point of the test
