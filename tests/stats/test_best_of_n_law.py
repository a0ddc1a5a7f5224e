"""Best-of-n: exact laws against figures worked out elsewhere, estimators against counting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.stats.best_of_n import (
    best_of_n_kl,
    best_of_n_law,
    best_of_n_win_rate,
    curve,
    early_rejection_tokens,
    expected_best,
    expected_win,
    kl_upper_bound,
    win_rate_upper_bound,
)

P = (0.4, 0.3, 0.2, 0.1)  # worst to best
UP = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("n", "law"), [(2, (0.16, 0.33, 0.32, 0.19)), (4, (0.0256, 0.2145, 0.416, 0.3439))]
)
def test_law_is_the_difference_of_powers(n: int, law: tuple[float, ...]) -> None:
    assert best_of_n_law(P, UP, n=n) == pytest.approx(law, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "kl", "win"),
    [
        (1, 0.0, 0.5),
        (2, 0.157199, 0.65),
        (4, 0.587114, 0.7826),
        (16, 1.676797, 0.921374),
        (64, 2.292639, 0.949823),
    ],
)
def test_kl_and_win_rate_of_the_known_law(n: int, kl: float, win: float) -> None:
    assert best_of_n_kl(P, UP, n=n) == pytest.approx(kl, abs=5e-7)
    assert best_of_n_win_rate(P, UP, n=n) == pytest.approx(win, abs=5e-7)


@pytest.mark.parametrize(
    ("n", "bound"),
    [
        (1, 0.0),
        (2, 0.193147),
        (3, 0.431946),
        (4, 0.636294),
        (8, 1.204442),
        (16, 1.835089),
        (32, 2.496986),
        (64, 3.174508),
        (128, 3.859843),
        (512, 5.240278),
    ],
)
def test_kl_upper_bound_in_nats(n: int, bound: float) -> None:
    assert kl_upper_bound(n) == pytest.approx(bound, abs=5e-7)


def test_equal_scores_share_as_the_reference_does() -> None:
    # the two best hold .3: 1 - .7^2 = .51, shared 2 to 1
    law = best_of_n_law(P, (0, 1, 2, 2), n=2)
    assert law == pytest.approx((0.16, 0.33, 0.34, 0.17))
    assert best_of_n_law(P, (5, 5, 5, 5), n=64) == pytest.approx(P)
    assert best_of_n_kl(P, (5, 5, 5, 5), n=64) == pytest.approx(0.0, abs=1e-12)
    assert best_of_n_win_rate(P, (5, 5, 5, 5), n=64) == pytest.approx(0.5)


def test_impossible_responses_change_nothing() -> None:
    law = best_of_n_law((0.0, *P, 0.0), (-9, *UP, 9), n=4)
    assert law == pytest.approx((0.0, 0.0256, 0.2145, 0.416, 0.3439, 0.0))
    assert best_of_n_kl((0.0, *P, 0.0), (-9, *UP, 9), n=4) == pytest.approx(0.587114, abs=5e-7)


laws = st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 5)), min_size=1, max_size=12)


@given(laws, st.integers(1, 200))
def test_law_is_a_law_within_both_bounds(rows: list[tuple[float, int]], n: int) -> None:
    p = np.array([mass for mass, _ in rows]) / sum(mass for mass, _ in rows)
    scores = [score for _, score in rows]
    law = best_of_n_law(p, scores, n=n)
    assert law.sum() == pytest.approx(1.0)
    assert (law >= 0).all()
    kl = best_of_n_kl(p, scores, n=n)
    some = law > 0
    assert kl == pytest.approx((law[some] * np.log(law[some] / p[some])).sum(), abs=1e-9)
    assert -1e-12 <= kl <= kl_upper_bound(n) + 1e-9
    win = best_of_n_win_rate(p, scores, n=n)
    assert 0.5 - 1e-12 <= win <= win_rate_upper_bound(n) + 1e-12


@pytest.mark.parametrize(
    ("n", "slowest"),
    [(1, 10.0), (2, 14.736842), (4, 20.273378), (8, 26.295784), (16, 32.587248)],
)
def test_the_slowest_of_n_geometric_lengths(n: int, slowest: float) -> None:
    lengths = np.arange(1, 801)
    p = 0.1 * 0.9 ** (lengths - 1)
    assert best_of_n_law(p / p.sum(), lengths, n=n) @ lengths == pytest.approx(slowest, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "mean"),
    [(2, 0.5642), (4, 1.0294), (8, 1.4236), (16, 1.7660), (64, 2.3437), (512, 3.0439)],
)
def test_the_best_of_n_normal_scores(n: int, mean: float) -> None:
    x = np.linspace(-8, 8, 160_001)
    p = np.exp(-x * x / 2)
    assert best_of_n_law(p / p.sum(), x, n=n) @ x == pytest.approx(mean, abs=6e-5)


def test_tokens_of_early_rejection() -> None:
    found = early_rejection_tokens(n=64, prefix_tokens=50, keep_frac=0.25, mean_tokens=200)
    assert found == 5600


def test_estimate_from_one_batch() -> None:
    scores = (-1, 0, 0.5, 2)
    assert expected_best(scores, scores) == pytest.approx((0.375, 7 / 6, 1.625, 2.0))
    five = expected_best((1, 2, 3, 4, 5), (1, 2, 3, 4, 5))
    assert five[[0, 1, 2, 4]] == pytest.approx((3, 4, 4.5, 5))


draws = st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), min_size=1, max_size=6)


def winners(scores: list[int], chosen: tuple[int, ...]) -> list[int]:
    best = max(scores[i] for i in chosen)
    return [i for i in chosen if scores[i] == best]


@given(draws)
def test_estimates_equal_counting_every_choice(rows: list[tuple[int, int]]) -> None:
    scores, quality = [s for s, _ in rows], [float(q) for _, q in rows]
    best, win = expected_best(scores, quality), expected_win(scores, quality)
    assert len(win) == len(rows) - 1
    for k in range(1, len(rows) + 1):
        choices = list(itertools.combinations(range(len(rows)), k))
        took = [winners(scores, choice) for choice in choices]
        mean = np.mean([np.mean([quality[i] for i in won]) for won in took])
        assert best[k - 1] == pytest.approx(mean)
        if k == len(rows):
            continue
        beats = [
            np.mean([(quality[i] > quality[j]) + 0.5 * (quality[i] == quality[j]) for i in won])
            for choice, won in zip(choices, took, strict=True)
            for j in set(range(len(rows))) - set(choice)
        ]
        assert win[k - 1] == pytest.approx(np.mean(beats))


@given(st.permutations(range(9)))
def test_without_ties_the_win_rate_is_k_of_k_plus_one(scores: list[int]) -> None:
    k = np.arange(1, 9)
    assert expected_win(scores, scores) == pytest.approx(k / (k + 1))


def test_order_of_the_draws_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    scores, quality = rng.integers(0, 6, 20), rng.normal(size=20)
    order = rng.permutation(20)
    for estimate in (expected_best, expected_win):
        shuffled = estimate(scores[order], quality[order])
        assert shuffled == pytest.approx(estimate(scores, quality))


def test_large_batches_keep_their_weights() -> None:
    ones = expected_best(np.arange(3000), np.ones(3000))
    assert ones == pytest.approx(np.ones(3000), abs=1e-9)
    ranks = expected_best(np.arange(1, 3001), np.arange(1, 3001))
    k = np.arange(1, 3001)
    assert ranks == pytest.approx(k * 3001 / (k + 1))  # E of the largest rank of k


def test_curve_is_the_mean_over_prompts_with_an_interval_over_prompts() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=3) + np.array([0.0, 1.0, 2.0]) for _ in range(200)]
    points = curve(rows)
    values = np.array(rows)
    assert [p.mean for p in points] == pytest.approx(values.mean(0))
    assert [p.prompts for p in points] == [200, 200, 200]
    for point, column in zip(points, values.T, strict=True):
        assert point.low is not None
        assert point.high is not None
        half = 1.96 * column.std(ddof=1) / math.sqrt(200)
        assert (point.high - point.low) / 2 == pytest.approx(half, rel=0.1)


def test_curve_says_how_many_prompts_each_point_has() -> None:
    points = curve([np.array([1.0, 2.0]), np.array([3.0])])
    assert [(p.k, p.mean, p.prompts) for p in points] == [(1, 2.0, 2), (2, 2.0, 1)]
    assert points[1].low is None
    assert points[1].high is None
    assert points[0].low == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("p", "scores", "n"),
    [
        (P, UP, 0),
        ((0.5, 0.4), (0, 1), 2),
        ((-0.5, 1.5), (0, 1), 2),
        (P, (0, 1, 2), 2),
        (P, (0, 1, 2, math.nan), 2),
        ((), (), 1),
    ],
)
def test_what_is_no_law_is_refused(p: tuple[float, ...], scores: tuple[float, ...], n: int) -> None:
    with pytest.raises(DataError, match=r"Give|Draw"):
        best_of_n_law(p, scores, n=n)


@pytest.mark.parametrize(
    ("scores", "quality"),
    [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([1.0], [math.inf])],
)
def test_draws_without_a_finite_number_are_refused(
    scores: list[float], quality: list[float]
) -> None:
    with pytest.raises(DataError, match="best_of_n"):
        expected_best(scores, quality)
