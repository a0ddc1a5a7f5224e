import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.trajectory import (
    dmpo_logratio,
    dmpo_weights,
    sum_by_turn,
    turn_mean_logratio,
)

CHOSEN, REJECTED = [1.0, 0.5, 0.5], [-0.5, -0.25, 0.0, -0.25]


def turns_of(values: list[float]) -> dict[str, Tensor]:
    """One trajectory by its turns."""
    return {
        "turn_logratios": torch.tensor([values], dtype=torch.float64),
        "turns": torch.tensor([len(values)]),
    }


def dpo(chosen: Tensor, rejected: Tensor) -> float:
    logit = dpo_logit(chosen_logratio=chosen, rejected_logratio=rejected, beta=0.1)
    return logistic_loss(logit).item()


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.5, [[1, 0.333333, 0, 0], [1, 0.428571, 0.142857, 0], [1, 0.466667, 0.2, 0.066667]]),
        (0.7, [[1, 0.411765, 0, 0], [1, 0.543379, 0.223744, 0], [1, 0.605211, 0.328859, 0.135413]]),
        (0.9, [[1, 0.473684, 0, 0], [1, 0.630996, 0.298893, 0], [1, 0.709218, 0.447514, 0.211980]]),
        (1.0, [[1, 0.5, 0, 0], [1, 0.666667, 0.333333, 0], [1, 0.75, 0.5, 0.25]]),
    ],
)
def test_dmpo_weights_meet_published_table(gamma: float, expected: list[list[float]]) -> None:
    weights = dmpo_weights(turns=torch.tensor([2, 3, 4]), gamma=gamma)
    for got, row in zip(weights.tolist(), expected, strict=True):
        assert got == pytest.approx(row, abs=1e-6)


def test_dmpo_weights_meet_published_sums() -> None:
    sums = dmpo_weights(turns=torch.tensor([1, 2, 4, 8, 16, 32]), gamma=0.7).sum(-1)
    published = [1, 1.411765, 2.069483, 2.843936, 3.279983, 3.332980]
    assert sums.tolist() == pytest.approx(published, abs=1e-6)


@given(st.integers(1, 40), st.floats(0.01, 0.999))
def test_dmpo_weights_fall_from_one_and_sum_to_the_closed_form(turns: int, gamma: float) -> None:
    (weights,) = dmpo_weights(turns=torch.tensor([turns]), gamma=gamma)
    power = gamma**turns
    assert weights[0].item() == pytest.approx(1.0)
    assert (weights.diff() < 0).all()
    assert weights.sum().item() == pytest.approx(
        1 / (1 - gamma) - turns * power / (1 - power), rel=1e-6
    )


def test_dmpo_weights_are_smooth_up_to_gamma_one() -> None:
    near = dmpo_weights(turns=torch.tensor([2, 7]), gamma=1 - 1e-12)
    at_one = dmpo_weights(turns=torch.tensor([2, 7]), gamma=1.0)
    assert (near - at_one).abs().max().item() < 1e-10


def test_a_tiny_gamma_leaves_the_first_turn_only() -> None:
    (weights,) = dmpo_weights(turns=torch.tensor([4]), gamma=1e-12)
    assert weights.tolist() == pytest.approx([1, 0, 0, 0], abs=1e-11)


@pytest.mark.parametrize(
    ("gamma", "margin", "value"),
    [
        (0.5, 1.919048, 0.601791),
        (0.7, 2.068718, 0.595051),
        (0.9, 2.195244, 0.589397),
        (1.0, 2.25, 0.586962),
    ],
)
def test_dmpo_meets_published_vectors(gamma: float, margin: float, value: float) -> None:
    chosen = dmpo_logratio(**turns_of(CHOSEN), gamma=gamma)
    rejected = dmpo_logratio(**turns_of(REJECTED), gamma=gamma)
    assert (chosen - rejected).item() == pytest.approx(margin, abs=1e-6)
    assert dpo(chosen, rejected) == pytest.approx(value, abs=1e-6)


def test_turn_mean_meets_published_vector() -> None:
    chosen = turn_mean_logratio(**turns_of(CHOSEN))
    rejected = turn_mean_logratio(**turns_of(REJECTED))
    assert (chosen - rejected).item() == pytest.approx(0.916667, abs=1e-6)
    assert dpo(chosen, rejected) == pytest.approx(0.648364, abs=1e-6)


def test_turn_sum_meets_published_vector() -> None:
    # two tokens per turn, each with half of the turn's log ratio, and a user token between turns
    logratios = torch.tensor([[0.5, 0.5, 9.0, 0.25, 0.25, 9.0, 0.25, 0.25]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True, False, True, True]])
    turn_of_token = torch.tensor([[0, 0, -1, 1, 1, 99, 2, 2]])
    chosen = sum_by_turn(logratios=logratios, mask=mask, turn_of_token=turn_of_token, turns=3)
    assert chosen.tolist() == [CHOSEN]
    rejected = turns_of(REJECTED)["turn_logratios"]
    assert dpo(chosen.sum(-1), rejected.sum(-1)) == pytest.approx(0.554355, abs=1e-6)


def test_tokens_of_others_carry_no_gradient() -> None:
    logratios = torch.tensor([[1.0, math.nan, 2.0, 4.0]], dtype=torch.float64).requires_grad_()
    by_turn = sum_by_turn(
        logratios=logratios,
        mask=torch.tensor([[True, False, True, True]]),
        turn_of_token=torch.tensor([[0, 0, 1, 1]]),
        turns=3,
    )
    assert by_turn.tolist() == [[1.0, 6.0, 0.0]]
    (gradient,) = torch.autograd.grad(by_turn[0, 1], [logratios])
    assert gradient.tolist() == [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("turn", [-1, 2])
def test_an_own_token_outside_the_turns_is_refused(turn: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        sum_by_turn(
            logratios=torch.zeros(1, 1),
            mask=torch.ones(1, 1, dtype=torch.bool),
            turn_of_token=torch.tensor([[turn]]),
            turns=2,
        )


def test_common_shift_of_every_turn_moves_the_margin_as_published() -> None:
    # lengths 8 against 2: summed 6, DMPO at .7 1.432172, mean 0
    long, short = turns_of([1.0] * 8), turns_of([1.0] * 2)
    dmpo = dmpo_logratio(**long, gamma=0.7) - dmpo_logratio(**short, gamma=0.7)
    mean = turn_mean_logratio(**long) - turn_mean_logratio(**short)
    assert dmpo.item() == pytest.approx(1.432172, abs=2e-6)
    assert mean.item() == 0.0


def test_dmpo_gradient_is_the_weight_of_the_turn() -> None:
    trajectory = turns_of(CHOSEN)
    trajectory["turn_logratios"].requires_grad_()
    value = dmpo_logratio(**trajectory, gamma=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), [trajectory["turn_logratios"]])
    assert gradient[0].tolist() == pytest.approx([1, 2 / 3, 1 / 3])


@given(st.floats(-1e4, 1e4), st.floats(0.01, 1.0))
def test_a_single_turn_is_dpo(h: float, gamma: float) -> None:
    assert dmpo_logratio(**turns_of([h]), gamma=gamma).item() == pytest.approx(h)
    assert turn_mean_logratio(**turns_of([h])).item() == h


def test_columns_beyond_the_turns_are_not_read() -> None:
    padded = torch.tensor([[*CHOSEN, math.nan, 5.0], [*REJECTED, math.inf]], dtype=torch.float64)
    lengths = torch.tensor([3, 4])
    weighted = dmpo_logratio(turn_logratios=padded, turns=lengths, gamma=0.7)
    mean = turn_mean_logratio(turn_logratios=padded, turns=lengths)
    assert (weighted[0] - weighted[1]).item() == pytest.approx(2.068718, abs=1e-6)
    assert mean.tolist() == pytest.approx([2 / 3, -0.25])


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.01, math.nan])
def test_gamma_outside_its_range_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        dmpo_weights(turns=torch.tensor([2]), gamma=gamma)


@pytest.mark.parametrize(("turns", "problem"), [(0, "no own turn"), (4, "4 turns")])
def test_turns_that_do_not_fit_are_refused(turns: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        turn_mean_logratio(
            turn_logratios=torch.zeros(1, 3, dtype=torch.float64), turns=torch.tensor([turns])
        )
