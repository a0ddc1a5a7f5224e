"""Several scores made one: golden values, order, ranges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.combine import (
    constraint_gate,
    lowest,
    mean_minus_variance,
    soft_and,
    weighted_sum,
)

ENSEMBLE = [[1.2], [0.8], [1.0], [0.2]]
scores_of_four = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


def rows(*values: object) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def gate(rewards: list[float], constraints: list[float], threshold: float = 0.0) -> list[float]:
    found: list[float] = constraint_gate(
        rewards=rows(rewards),
        constraints=rows([constraints]),
        thresholds=rows([threshold]),
        floor=-5.0,
    ).tolist()
    return found


def test_lowest_of_an_ensemble_is_its_worst_member() -> None:
    assert lowest(rows(ENSEMBLE)).tolist() == pytest.approx([0.2])


@pytest.mark.parametrize(("coef", "value"), [(0.5, 0.73), (0.0, 0.8), (1.0, 0.66)])
def test_variance_is_taken_over_the_population(coef: float, value: float) -> None:
    # mean 0.8, population variance 0.14; with n - 1 the first would be 0.706667
    found = mean_minus_variance(rows(ENSEMBLE), variance_coef=coef)
    assert found.tolist() == pytest.approx([value], abs=1e-12)


def test_soft_and_matches_the_golden_value() -> None:
    found = soft_and(rows([[1.0], [-0.5]]), thresholds=rows([0, 0]), softness=rows([1, 1]))
    assert found.item() == pytest.approx(-1.287339, abs=1e-6)


def test_soft_and_with_thresholds_and_widths_by_hand() -> None:
    # (1 - 2) / 0.5 = -2 and (3 - 1) / 4 = 0.5
    found = soft_and(rows([[1.0], [3.0]]), thresholds=rows([2, 1]), softness=rows([0.5, 4]))
    wanted = -math.log1p(math.exp(2)) - math.log1p(math.exp(-0.5))
    assert found.item() == pytest.approx(wanted)


def test_weighted_sum_by_hand() -> None:
    found = weighted_sum(rows([[1.0, 0.0], [3.0, 2.0]]), weights=rows([0.75, 0.25]))
    assert found.tolist() == pytest.approx([1.5, 0.5])


def test_gate_gives_the_reward_at_and_above_the_threshold() -> None:
    assert gate([1.0, -2.0], [0.3, 0.5], threshold=0.3) == [1.0, -2.0]


def test_gate_ranks_what_fails_by_its_constraint() -> None:
    assert gate([4.0, 4.0], [-0.5, -2.0]) == [-5.5, -7.0]


@given(scores_of_four, scores_of_four)
def test_gate_puts_all_that_fails_under_all_that_passes(
    rewards: list[float], constraints: list[float]
) -> None:
    found = gate(rewards, constraints)
    passed = [f for f, c in zip(found, constraints, strict=True) if c >= 0]
    failed = [f for f, c in zip(found, constraints, strict=True) if c < 0]
    assert all(bad < good for bad in failed for good in passed)


def test_worst_of_several_constraints_decides() -> None:
    found = constraint_gate(
        rewards=rows([1.0]),
        constraints=rows([[0.5], [-1.0]]),
        thresholds=rows([1.0, 1.0]),
        floor=-5.0,
    )
    assert found.tolist() == [-7.0]


@given(scores_of_four, st.floats(-3, 3))
def test_a_common_shift_moves_every_shape_that_is_linear(scores: list[float], shift: float) -> None:
    one, other = rows([[s] for s in scores]), rows([[s + shift] for s in scores])
    assert lowest(other).item() == pytest.approx(lowest(one).item() + shift, abs=1e-9)
    moved = mean_minus_variance(other, variance_coef=0.5).item()
    assert moved == pytest.approx(
        mean_minus_variance(one, variance_coef=0.5).item() + shift, abs=1e-9
    )


@given(scores_of_four)
def test_models_that_agree_give_what_each_of_them_gives(scores: list[float]) -> None:
    alike = rows([scores, scores, scores])
    third = rows([1 / 3, 1 / 3, 1 / 3])
    for found in (
        lowest(alike),
        mean_minus_variance(alike, variance_coef=2.0),
        weighted_sum(alike, weights=third),
    ):
        assert found.tolist() == pytest.approx(scores, abs=1e-9)


def test_numbers_out_of_range_are_refused() -> None:
    two = rows([[1.0], [2.0]])
    with pytest.raises(ValueError, match="other than 0"):
        weighted_sum(two, weights=rows([1.0, 0.0]))
    with pytest.raises(ValueError, match="other than 0"):
        weighted_sum(two, weights=rows([1.0, math.inf]))
    with pytest.raises(ValueError, match="above 0"):
        soft_and(two, thresholds=rows([0, 0]), softness=rows([1.0, 0.0]))
    with pytest.raises(ValueError, match="finite number >= 0"):
        mean_minus_variance(two, variance_coef=-0.1)
    with pytest.raises(ValueError, match="below the floor -5"):
        gate([-5.1], [1.0])
    with pytest.raises(ValueError, match="thresholds"):
        gate([0.0], [1.0], threshold=math.nan)
