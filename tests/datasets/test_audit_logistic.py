"""The small logistic model against statsmodels, closed forms and its own symmetry."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from preftune.datasets.audit_logistic import fit_logistic
from preftune.errors import DataError


def rows(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    chance = 1 / (1 + np.exp(-x @ np.array([0.8, -0.5, 0.0])))
    return x, (rng.random(n) < chance).astype(float), rng.integers(80, size=n).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_weights_and_clustered_errors_equal_statsmodels(seed: int) -> None:
    x, wins, clusters = rows(seed)
    found = fit_logistic(x, wins, clusters)
    # statsmodels multiplies by G / (G - 1) · (N - 1) / (N - K); ours by the first factor alone
    known = sm.GLM(wins, x, family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(clusters)}, tol=1e-12
    )
    factor = math.sqrt((len(x) - x.shape[1]) / (len(x) - 1))
    assert found.weights == pytest.approx(known.params, abs=1e-7)
    assert found.errors == pytest.approx(known.bse * factor, rel=1e-6)


def test_three_wins_to_one_give_ln_3() -> None:
    found = fit_logistic(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), range(4))
    assert found.weights[0] == pytest.approx(math.log(3))


@given(st.integers(0, 1000), st.integers(0, 2**32 - 1))
def test_swapping_the_two_responses_of_some_rows_changes_nothing(seed: int, which: int) -> None:
    x, wins, clusters = rows(seed, n=60)
    turned = np.random.default_rng(which).random(60) < 0.5
    swapped = fit_logistic(
        np.where(turned[:, None], -x, x), np.where(turned, 1 - wins, wins), clusters, ridge=0.1
    )
    found = fit_logistic(x, wins, clusters, ridge=0.1)
    assert swapped.weights == pytest.approx(found.weights, abs=1e-8)
    assert swapped.errors == pytest.approx(found.errors, abs=1e-8)


def test_what_always_wins_needs_a_ridge() -> None:
    x, wins = np.ones((30, 1)), np.ones(30)
    with pytest.raises(DataError, match="without fail"):
        fit_logistic(x, wins, range(30))
    # 30 · sigmoid(-w) = .01 · w at the maximum
    weight = fit_logistic(x, wins, range(30), ridge=0.01).weights[0]
    assert 30 / (1 + math.exp(weight)) == pytest.approx(0.01 * weight, rel=1e-6)


def test_copies_and_lonely_clusters_are_refused() -> None:
    x, wins, clusters = rows(0)
    with pytest.raises(DataError, match="a copy"):
        fit_logistic(np.hstack([np.zeros((400, 1)), x]), wins, clusters)
    with pytest.raises(DataError, match="1 clusters"):
        fit_logistic(x, wins, [0] * 400)
