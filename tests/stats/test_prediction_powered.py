import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.stats.intervals import clustered_se
from preftune.stats.prediction_powered import PoweredMean, prediction_powered_mean

F = (0.6, 0.7, 0.4, 0.8, 0.5, 0.9, 0.3, 0.6)
G, Y = (0.8, 0.4, 0.6), (1, 0, 1)
ROUNDS = 600


def powered(weight: float | None = 1.0) -> PoweredMean:
    return prediction_powered_mean(F, labelled_predictions=G, labels=Y, weight=weight)


def test_powered_mean_matches_hand_calculation() -> None:
    # means .6 and .066667; variances .28 / 7 over 8 and .346667 / 2 over 3
    found = powered()
    assert found.value == pytest.approx(0.666667, abs=1e-6)
    assert found.se == pytest.approx(0.250555, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.175588, 1.157745), abs=1e-5)


def test_weight_0_is_the_mean_of_the_labels() -> None:
    found = powered(0.0)
    assert (found.value, found.se) == pytest.approx((2 / 3, clustered_se(Y, range(3))))


def test_no_weight_between_0_and_1_is_shorter_than_the_one_taken() -> None:
    draw = np.random.default_rng(1)
    y = draw.integers(0, 2, 30)
    g, f = np.where(draw.random(30) < 0.8, y, 1 - y), draw.integers(0, 2, 60)

    def at(weight: float | None) -> PoweredMean:
        return prediction_powered_mean(f, labelled_predictions=g, labels=y, weight=weight)

    taken = at(None)
    assert 0.1 < taken.weight < 0.9
    assert taken.se <= min(at(w).se for w in np.linspace(0, 1, 101)) + 1e-12


def test_perfect_predictions_get_the_weight_known_on_paper() -> None:
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 40  # n 20, N 80; variances differ by n / (n - 1)
    found = prediction_powered_mean(many, labelled_predictions=few, labels=few)
    expected = (1 / (4 * 19)) / (1 / (4 * 19) + 1 / (4 * 79))
    assert found.weight == pytest.approx(expected)
    assert found.value == 0.5


def test_predictions_that_say_nothing_cost_nothing() -> None:
    found = prediction_powered_mean([0.5] * 9, labelled_predictions=[0.5] * 3, labels=Y)
    assert (found.weight, found.se) == pytest.approx((0.0, clustered_se(Y, range(3))))


def test_clusters_of_the_same_name_are_counted_as_one() -> None:
    """Everything is labelled, f = y: the two means cancel to the plain mean of y."""
    names = ["a", "a", "b", "c", "c", "d"]
    y = [1, 1, 0, 1, 0, 0]
    found = prediction_powered_mean(
        y, labelled_predictions=y, labels=y, clusters=names, labelled_clusters=names, weight=1.0
    )
    assert (found.value, found.se) == pytest.approx((0.5, clustered_se(y, names)))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=20),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
    st.floats(0, 1),
)
def test_turning_wins_into_losses_turns_the_mean(
    labelled: list[tuple[float, int]], rest: list[float], weight: float
) -> None:
    g, y = np.array(labelled).T
    f = np.array(rest)
    one = prediction_powered_mean(f, labelled_predictions=g, labels=y, weight=weight)
    other = prediction_powered_mean(1 - f, labelled_predictions=1 - g, labels=1 - y, weight=weight)
    assert one.value + other.value == pytest.approx(1.0)
    assert one.se == pytest.approx(other.se, abs=1e-12)


@pytest.mark.parametrize(
    ("right", "lean", "weight"), [(0.9, 0.0, 1.0), (0.75, 0.15, None), (0.5, 0.3, None)]
)
def test_intervals_hold_the_truth_in_95_percent_however_bad_the_judge(
    right: float, lean: float, weight: float | None
) -> None:
    """100 labelled of 500, the truth .6; the judge is right that often and leans to one side."""
    draw = np.random.default_rng(7)
    held = np.zeros(ROUNDS, dtype=bool)
    width = np.zeros(ROUNDS)
    for i in range(ROUNDS):
        y = (draw.random(500) < 0.6).astype(float)
        f = np.where(draw.random(500) < right, y, 1 - y)
        f = np.where(draw.random(500) < lean, 1.0, f)
        found = prediction_powered_mean(
            f[100:], labelled_predictions=f[:100], labels=y[:100], weight=weight
        )
        held[i], width[i] = found.low <= 0.6 <= found.high, found.high - found.low
    # 95 %, give or take three errors of 600 rounds
    assert 0.923 <= held.mean() <= 0.977
    alone = 2 * 1.96 * math.sqrt(0.6 * 0.4 / 100)
    if weight is None:
        assert width.mean() < 1.01 * alone
    if right == 0.9:
        assert width.mean() < 0.85 * alone  # .816 on paper


@pytest.mark.parametrize(
    ("f", "g", "y", "clusters", "labelled"),
    [
        ([0.5], [0.5, 0.5], [1, 0], None, None),
        ([0.5, 0.5], [0.5], [1], None, None),
        ([0.5, 0.5], [0.5, 0.5], [1], None, None),
        ([0.5, 0.5], [0.5, 0.5], [1, 0], ["a", "b"], None),
        ([0.5, 0.5], [0.5, 0.5], [1, 0], None, ["a", "b"]),
        ([0.5, 0.5], [0.5, 0.5], [1, 0], ["a", "a"], ["a", "b"]),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    f: list[float],
    g: list[float],
    y: list[int],
    clusters: list[str] | None,
    labelled: list[str] | None,
) -> None:
    with pytest.raises(DataError, match="prediction_powered_mean"):
        prediction_powered_mean(
            f, labelled_predictions=g, labels=y, clusters=clusters, labelled_clusters=labelled
        )
