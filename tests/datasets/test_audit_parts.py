"""Intervals and verdicts: published numbers, clusters, and what counts as a side."""

import numpy as np
import pytest

from preftune.datasets.audit_parts import (
    AuditFinding,
    Estimate,
    count_finding,
    percent,
    share_estimate,
    shared_level,
    worst,
)
from preftune.errors import DataError
from preftune.stats.bootstrap import mean_interval


def test_share_of_single_rows_is_wilsons_published_interval() -> None:
    found = share_estimate([1.0] * 60 + [0.0] * 40, range(100))
    assert (found.value, found.n) == (0.6, 100)
    assert (found.low, found.high) == pytest.approx((0.502003, 0.690599), abs=1e-6)


def test_copies_of_a_row_in_one_cluster_do_not_narrow_the_interval() -> None:
    once = share_estimate([1.0] * 60 + [0.0] * 40, range(100))
    thrice = share_estimate(([1.0] * 60 + [0.0] * 40) * 3, [*range(100)] * 3)
    assert thrice.n == 100
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)


def test_closed_form_agrees_with_the_bootstrap_over_many_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(200, size=600).tolist()
    values = (rng.random(600) < 0.3).astype(float).tolist()
    found, drawn = share_estimate(values, clusters), mean_interval(values, clusters)
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.1)


def test_one_cluster_says_nothing() -> None:
    found = share_estimate([1.0, 1.0, 0.0], ["p", "p", "p"])
    assert (found.low, found.high, found.n) == (0.0, 1.0, 1)


def test_no_values_are_refused() -> None:
    with pytest.raises(DataError, match="no values"):
        share_estimate([], [])


@pytest.mark.parametrize(
    ("low", "high", "margin", "side"),
    [(0.51, 0.6, 0.0, 1), (0.51, 0.6, 0.02, 0), (0.3, 0.4, 0.05, -1), (0.4, 0.6, 0.0, 0)],
)
def test_a_side_needs_the_whole_interval(low: float, high: float, margin: float, side: int) -> None:
    assert Estimate(value=0.5, low=low, high=high, n=9).side(margin=margin) == side


def test_intervals_that_hold_together_are_wider() -> None:
    assert shared_level(1) == pytest.approx(0.95)
    assert shared_level(10) == pytest.approx(0.995)


def test_worst_is_the_worst_of_all_and_ok_of_none() -> None:
    found = [
        AuditFinding(kind=verdict, what="", size="", verdict=verdict)
        for verdict in ("ok", "stop", "look")
    ]
    assert worst(found) == "stop"
    assert worst(found[:1]) == worst([]) == "ok"


def test_a_count_of_none_is_in_order_and_needs_no_fix() -> None:
    none = count_finding("leak", (), 10, what="w", verdict="stop", fix="do this")
    some = count_finding("leak", [7, 3, 7], 10, what="w", verdict="stop", fix="do this")
    assert (none.verdict, none.fix, none.size) == ("ok", "", "0 rows (0.0 %)")
    assert (some.verdict, some.lines, some.size) == ("stop", (3, 7), "2 rows (20.0 %)")


def test_percent_is_said_with_its_interval() -> None:
    assert percent(Estimate(value=0.5, low=0.25, high=0.751, n=1)) == "50.0 % (25.0–75.1)"
