import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import DataError
from preftune.stats.ratings import bradley_terry, elo, win_matrix

THREE = [[0, 7, 6], [3, 0, 5], [4, 5, 0]]
EDGES = [(i, (i + 1) % 8) for i in range(8)] + [(0, 4), (2, 6)]  # a ring and two chords
TRUTH = np.array([1.2, -0.7, 0.4, 0.1, -1.0, 0.6, -0.2, -0.4])


def ring(rng: np.random.Generator | None, games: int) -> np.ndarray:
    """Wins along the ring: drawn, or exactly the expected fractions when no generator is given."""
    wins = np.zeros((8, 8))
    for i, j in EDGES:
        p = 1 / (1 + math.exp(TRUTH[j] - TRUTH[i]))
        wins[i, j] = games * p if rng is None else rng.binomial(games, p)
        wins[j, i] = games - wins[i, j]
    return wins


def fisher_rmse(games: int) -> float:
    information = np.zeros((8, 8))
    for i, j in EDGES:
        p = 1 / (1 + math.exp(TRUTH[j] - TRUTH[i]))
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            information[a, b] += sign * games * p * (1 - p)
    return math.sqrt(np.trace(np.linalg.pinv(information)) / 8)


def test_strengths_and_errors_of_three_items() -> None:
    ratings = bradley_terry(THREE, names=["x", "y", "z"])
    assert ratings.strength == pytest.approx([0.413166, -0.275397, -0.137769], abs=5e-7)
    points = elo(ratings)
    assert list(points) == ["x", "z", "y"]
    assert points == pytest.approx({"x": 1071.7744, "z": 976.0670, "y": 952.1586}, abs=5e-5)
    assert ratings.standard_error[0] == pytest.approx(0.312727, abs=5e-7)
    assert ratings.difference("x", "y")[1] == pytest.approx(0.540260, abs=5e-7)


def test_three_to_one_is_log_3() -> None:
    ratings = bradley_terry([[0, 3], [1, 0]], names=["a", "b"])
    assert ratings.difference("a", "b")[0] == pytest.approx(math.log(3))
    points = elo(ratings)
    assert points["a"] - points["b"] == pytest.approx(190.848502, abs=5e-7)


@given(st.lists(st.integers(1, 30), min_size=12, max_size=12))
def test_fit_satisfies_the_likelihood_equations(counts: list[int]) -> None:
    wins = np.zeros((4, 4))
    wins[~np.eye(4, dtype=bool)] = counts
    strength = bradley_terry(wins).strength
    p = 1 / (1 + np.exp(-np.subtract.outer(strength, strength)))
    expected = ((wins + wins.T) * p).sum(1) - 0.5 * np.diag(wins + wins.T)
    assert expected == pytest.approx(wins.sum(1), rel=1e-9)
    assert strength.sum() == pytest.approx(0, abs=1e-9)


def test_exact_win_fractions_give_the_truth_back() -> None:
    assert np.abs(bradley_terry(ring(None, 1)).strength - TRUTH).max() <= 1e-8


def test_error_of_drawn_games_is_what_fisher_information_predicts() -> None:
    fits = [bradley_terry(ring(np.random.default_rng(seed), 400)) for seed in range(20)]
    rmse = math.sqrt(np.mean([(fit.strength - TRUTH) ** 2 for fit in fits]))
    assert 0.8 <= rmse / fisher_rmse(400) <= 1.3


def test_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    covered = []
    for seed in range(200):
        fit = bradley_terry(ring(np.random.default_rng(1000 + seed), 400))
        covered.append(np.abs(fit.strength - TRUTH) <= 1.96 * fit.standard_error)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_two_components_are_refused_by_name() -> None:
    wins = [[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 3], [0, 0, 1, 0]]
    with pytest.raises(DataError, match=r"never compared with one another: a, b \| c, d"):
        bradley_terry(wins, names=["a", "b", "c", "d"])


def test_an_undefeated_item_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="champion never lost"):
        bradley_terry([[0, 4, 3], [0, 0, 2], [0, 2, 0]], names=["champion", "y", "z"])


def test_an_undefeated_item_has_a_finite_rating_under_a_prior() -> None:
    # One game a beat b and prior w: symmetric strengths s, -s with s(2s)... solved by the equation
    # 1 - p(2 s) + w (1 - 2 p(s)) = 0, checked here by substitution.
    ratings = bradley_terry([[0, 1], [0, 0]], prior=0.5)
    s = ratings.strength[0]
    balance = 1 - 1 / (1 + math.exp(-2 * s)) + 0.5 * (1 - 2 / (1 + math.exp(-s)))
    assert balance == pytest.approx(0, abs=1e-9)
    assert s > 0


@pytest.mark.parametrize(
    "wins", [[[0, 1, 2], [1, 0, 2]], [[0, -1], [1, 0]], [[0, math.nan], [1, 0]], [[0]]]
)
def test_a_table_that_is_not_one_of_wins_is_refused(wins: list[list[float]]) -> None:
    with pytest.raises(DataError):
        bradley_terry(wins)


def test_win_matrix_counts_a_tie_half_on_both_sides() -> None:
    names, wins = win_matrix([("b", "a", 1), ("a", "b", 0.5), ("c", "a", 0)])
    assert names == ("a", "b", "c")
    assert wins.tolist() == [[0, 0.5, 1], [1.5, 0, 0], [0, 0, 0]]
