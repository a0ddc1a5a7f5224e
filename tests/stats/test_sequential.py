import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from preftune.stats.sequential import e_value


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (1, 0, 1.5),
        (10, 2, 9.440559),
        (15, 5, 6.355521),
        (30, 10, 63.227924),
        (20, 20, 0.194545),
        (7, 0, 31.875),
        (0, 0, 1.0),
    ],
)
def test_e_value_matches_the_table(wins: int, losses: int, expected: float) -> None:
    assert float(e_value(wins, losses)) == pytest.approx(expected, abs=5e-7)


def test_seven_wins_in_a_row_are_the_fewest_that_pass_20() -> None:
    assert float(e_value(6, 0)) < 20 < float(e_value(7, 0))


@given(st.integers(0, 40), st.integers(0, 40))
def test_e_value_equals_the_integral_of_the_likelihood_ratio(wins: int, losses: int) -> None:
    def ratio(p: float) -> float:
        return 2 * math.exp(wins * math.log(2 * p) + losses * math.log(2 - 2 * p))

    expected, _ = quad(ratio, 0.5, 1.0 - 1e-15)
    assert float(e_value(wins, losses)) == pytest.approx(expected, rel=1e-5)


def test_e_process_holds_its_level_under_peeking_and_keeps_its_power() -> None:
    rng = np.random.default_rng(1)
    count = np.arange(1, 401)

    def evidence(p: float) -> tuple[np.ndarray, np.ndarray]:
        wins = (rng.uniform(size=(1000, 400)) < p).cumsum(axis=1)
        return wins, e_value(wins, count - wins)

    wins, value = evidence(0.5)
    fixed = binom.sf(wins[:, -1] - 1, 400, 0.5) <= 0.05
    peeking = (binom.sf(wins[:, 19:] - 1, count[19:], 0.5) <= 0.05).any(axis=1)
    assert fixed.mean() <= 0.07
    assert peeking.mean() > 0.2  # looking after every label breaks the fixed-n test
    assert (value >= 20).any(axis=1).mean() <= 0.05
    _, better = evidence(0.65)
    assert (better >= 20).any(axis=1).mean() >= 0.95
