import math
from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from statsmodels.miscmodels.ordinal_model import OrderedModel

from preftune.errors import DataError
from preftune.stats.ratings import bradley_terry
from preftune.stats.ties import (
    TieRatings,
    davidson,
    davidson_probabilities,
    rao_kupper,
    rao_kupper_probabilities,
)

Fit = Callable[..., TieRatings]
WINS = np.array([[0, 9, 4, 7], [3, 0, 6, 5], [5, 2, 0, 8], [1, 4, 3, 0]], dtype=float)
TIES = np.array([[0, 4, 6, 2], [4, 0, 5, 3], [6, 5, 0, 1], [2, 3, 1, 0]], dtype=float)


def test_davidson_probabilities_match_the_golden_values() -> None:
    found = davidson_probabilities(0.7, 1.0)
    assert [float(p) for p in found] == pytest.approx([0.454283, 0.320127, 0.225590], abs=5e-7)


def test_rao_kupper_probabilities_match_the_golden_values() -> None:
    found = rao_kupper_probabilities(0.7, 2.0)
    assert [float(p) for p in found] == pytest.approx([0.501713, 0.299381, 0.198906], abs=5e-7)


@given(st.floats(-2000, 2000), st.floats(0, 50))
def test_davidson_probabilities_add_to_1_at_any_gap(gap: float, nu: float) -> None:
    first, tie, second = davidson_probabilities(gap, nu)
    assert float(first + tie + second) == pytest.approx(1)
    mirrored = [float(p) for p in davidson_probabilities(-gap, nu)]
    assert mirrored == pytest.approx([float(second), float(tie), float(first)])


def test_davidson_of_two_items_matches_hand_calculation() -> None:
    # Three outcomes 3 : 2 : 1 leave nothing to fit: d = ln 3, nu = 2 / sqrt(3 · 1)
    fit = davidson([[0, 3], [1, 0]], [[0, 2], [2, 0]], names=["a", "b"])
    assert fit.ratings.difference("a", "b")[0] == pytest.approx(math.log(3))
    assert fit.tie == pytest.approx(2 / math.sqrt(3))


def test_rao_kupper_of_two_items_matches_hand_calculation() -> None:
    # 5 : 10 : 5, so sigmoid(-ln theta) = 1/4
    even = rao_kupper([[0, 5], [5, 0]], [[0, 10], [10, 0]])
    assert even.tie == pytest.approx(3)
    assert even.ratings.strength == pytest.approx([0, 0], abs=1e-9)
    # 3 : 2 : 1: sigmoid(d - t) = 1/2, sigmoid(-d - t) = 1/6, so d = t = ln 5 / 2
    fit = rao_kupper([[0, 3], [1, 0]], [[0, 2], [2, 0]], names=["a", "b"])
    assert fit.ratings.difference("a", "b")[0] == pytest.approx(math.log(5) / 2)
    assert fit.tie == pytest.approx(math.sqrt(5))


def test_davidson_equals_the_log_linear_model_of_statsmodels() -> None:
    rows, counts = [], []
    cells = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    for number, (i, j) in enumerate(cells):
        for outcome, half in ((WINS[i, j], 0.5), (TIES[i, j], 0.0), (WINS[j, i], -0.5)):
            row = np.zeros(len(cells) + 4)
            row[number] = 1
            for item, sign in ((i, half), (j, -half)):
                if item:  # item 0 is the zero of the scale
                    row[len(cells) + item - 1] = sign
            row[-1] = half == 0
            rows.append(row)
            counts.append(outcome)
    theirs = sm.GLM(counts, np.array(rows), family=sm.families.Poisson()).fit(tol=1e-14)
    ours = davidson(WINS, TIES)
    gaps = ours.ratings.strength[1:] - ours.ratings.strength[0]
    assert gaps == pytest.approx(theirs.params[-4:-1], abs=1e-7)
    assert math.log(ours.tie) == pytest.approx(theirs.params[-1], abs=1e-7)
    assert ours.tie_error == pytest.approx(theirs.bse[-1], rel=1e-6)
    assert ours.ratings.difference("item 1", "item 0")[1] == pytest.approx(theirs.bse[-4], rel=1e-6)


def test_rao_kupper_equals_the_ordered_logit_of_statsmodels() -> None:
    # Every game twice, once from either side, makes the two cut points mirror each other.
    design, outcome = [], []
    for i in range(4):
        for j in range(4):
            if i != j:
                x = np.zeros(4)
                x[i], x[j] = 1, -1
                for level, times in ((2, WINS[i, j]), (1, TIES[i, j]), (0, WINS[j, i])):
                    design += [x[1:]] * int(times)
                    outcome += [level] * int(times)
    model = OrderedModel(outcome, np.array(design), distr="logit")
    theirs = model.fit(method="bfgs", disp=False, gtol=1e-10)
    ours = rao_kupper(WINS, TIES)
    assert ours.ratings.strength[1:] - ours.ratings.strength[0] == pytest.approx(
        theirs.params[:3], abs=1e-5
    )
    assert math.log(ours.tie) == pytest.approx(-theirs.params[3], abs=1e-5)


@pytest.mark.parametrize(
    ("fit", "probabilities"),
    [(davidson, davidson_probabilities), (rao_kupper, rao_kupper_probabilities)],
)
@given(st.lists(st.integers(1, 20), min_size=9, max_size=9))
def test_no_other_answer_is_likelier(
    fit: Fit, probabilities: Callable[..., tuple[np.ndarray, ...]], counts: list[int]
) -> None:
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    wins[~np.eye(3, dtype=bool)] = counts[:6]
    ties[np.triu_indices(3, 1)] = counts[6:]
    ties += ties.T

    def loss(at: np.ndarray) -> float:
        gaps = np.subtract.outer(np.append(0, at[:2]), np.append(0, at[:2]))
        first, tie, _ = probabilities(gaps, math.exp(at[2]))
        return -float((wins * np.log(first)).sum() + (ties * np.log(tie)).sum() / 2)

    found = fit(wins, ties)
    at = np.append((found.ratings.strength - found.ratings.strength[0])[1:], math.log(found.tie))
    best = minimize(loss, at, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert loss(at) <= best.fun + 1e-7


@pytest.mark.parametrize(("fit", "none"), [(davidson, 0.0), (rao_kupper, 1.0)])
def test_without_ties_it_is_bradley_terry(fit: Fit, none: float) -> None:
    found = fit(WINS, np.zeros((4, 4)))
    plain = bradley_terry(WINS)
    assert found.ratings.strength == pytest.approx(plain.strength)
    assert found.ratings.standard_error == pytest.approx(plain.standard_error)
    assert found.tie == none


@pytest.mark.parametrize("fit", [davidson, rao_kupper])
def test_a_prior_gives_an_undefeated_item_a_finite_strength(fit: Fit) -> None:
    wins, ties = [[0, 4, 3], [0, 0, 2], [0, 1, 0]], [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    with pytest.raises(DataError, match="item 0 never lost"):
        fit(wins, ties)
    found = fit(wins, ties, prior=0.5)
    assert found.ratings.strength.argmax() == 0
    assert found.ratings.strength.sum() == pytest.approx(0, abs=1e-9)


def test_a_tie_links_two_items_both_ways() -> None:
    fit = davidson([[0, 3], [0, 0]], [[0, 1], [1, 0]])
    assert np.isfinite(fit.ratings.strength).all()


@pytest.mark.parametrize(
    ("wins", "ties", "message"),
    [
        ([[0, 1], [1, 0]], [[0, 1, 0]], "Give .K, K. twice"),
        ([[0, -1], [1, 0]], [[0, 1], [1, 0]], "finite and >= 0"),
        ([[0, 1], [1, 0]], [[0, 1], [2, 0]], "not symmetric"),
        ([[0, 0], [0, 0]], [[0, 1], [1, 0]], "every comparison is a tie"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(
    wins: list[list[float]], ties: list[list[float]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        davidson(wins, ties)
