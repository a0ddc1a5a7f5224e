import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.stats.bootstrap import mean_interval
from preftune.stats.intervals import clustered_se, wilson
from preftune.stats.shares import Share, grouped_shares, share, wilson_bounds


@given(st.integers(1, 200), st.data())
def test_bounds_equal_wilson(n: int, data: st.DataObject) -> None:
    yes = data.draw(st.integers(0, n))
    low, high = wilson_bounds(yes / n, n)
    expected = wilson(yes, n)
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high))


def test_sixty_of_a_hundred_without_clusters() -> None:
    # SE² = .24 / 99, so the votes are worth .24 / SE² = 99
    found = share([1] * 60 + [0] * 40, np.arange(100))
    assert found is not None
    low, high = wilson_bounds(0.6, 99)
    assert (found.value, found.n) == (0.6, 100)
    assert (found.low, found.high) == pytest.approx((float(low), float(high)))
    assert str(found) == "60% (50–69) of 100"


def test_copies_of_a_vote_within_a_prompt_add_nothing() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 2, 50)
    once, thrice = share(votes, np.arange(50)), share(np.repeat(votes, 3), np.arange(150) // 3)
    assert once is not None
    assert thrice is not None
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_clusters_that_all_agree_are_worth_one_vote_each() -> None:
    found = share([1] * 60, np.arange(60) // 6)
    assert found is not None
    assert found.low == pytest.approx(wilson(10, 10).low)
    assert found.high == 1


def test_groups_are_counted_apart_and_an_empty_one_is_none() -> None:
    found = grouped_shares([1, 0, 1, 1], groups=[0, 0, 2, 2], clusters=[0, 1, 0, 1], count=4)
    assert [part and part.value for part in found] == [0.5, None, 1.0, None]
    alone = share([1, 0], [0, 1])
    assert found[0] == alone


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_the_interval_holds_the_share(items: list[tuple[float, int]]) -> None:
    found = share([value for value, _ in items], [cluster for _, cluster in items])
    assert found is not None
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_it_agrees_with_the_clustered_error_and_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    lean = rng.beta(2, 2, 200)
    clusters = np.repeat(np.arange(200), 5)
    values = (rng.random(1000) < lean[clusters]).astype(float)
    found = share(values, clusters)
    assert found is not None
    half = (found.high - found.low) / 2
    assert half == pytest.approx(1.96 * clustered_se(values.tolist(), clusters.tolist()), rel=0.05)
    drawn = mean_interval(values.tolist(), clusters.tolist())
    assert half == pytest.approx((drawn.high - drawn.low) / 2, rel=0.1)


def test_a_share_differs_from_what_its_interval_leaves_out() -> None:
    found = Share(value=0.6, n=9, low=0.51, high=0.7)
    assert found.differs_from(0.5)
    assert not found.differs_from(0.55)


@pytest.mark.parametrize(
    ("values", "groups", "message"), [([0.5], [0, 0], "1 values, 2 groups"), ([2.0], [0], "0..1")]
)
def test_what_is_no_share_is_refused(values: list[float], groups: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        grouped_shares(values, groups=groups, clusters=groups, count=1)
