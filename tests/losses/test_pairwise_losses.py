import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.pairwise import bradley_terry_loss, centring_penalty, soft_bradley_terry_loss

scores = st.floats(-200.0, 200.0)


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("margin", "value"), [(0.0, 0.403186), (0.3, 0.513015), (1.0, 0.854355)])
def test_bradley_terry_meets_published_vectors(margin: float, value: float) -> None:
    loss = bradley_terry_loss(
        chosen_rewards=number(1.2), rejected_rewards=number(0.5), margin=number(margin)
    )
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_equal_scores_give_log_2() -> None:
    loss = bradley_terry_loss(chosen_rewards=number(3.0), rejected_rewards=number(3.0))
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(("p", "value"), [(0.8, 0.543186), (0.5, 0.753186), (1.0, 0.403186)])
def test_soft_label_meets_published_vectors(p: float, value: float) -> None:
    loss = soft_bradley_terry_loss(
        chosen_rewards=number(1.2), rejected_rewards=number(0.5), probability=number(p)
    )
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_centring_of_one_hundredth_meets_published_vector() -> None:
    pair = {"chosen_rewards": number(1.2), "rejected_rewards": number(0.5)}
    assert (bradley_terry_loss(**pair) + 0.01 * centring_penalty(**pair)).item() == pytest.approx(
        0.432086, abs=1e-6
    )


@given(scores, scores, st.floats(-50.0, 50.0))
def test_a_constant_on_both_scores_changes_nothing(a: float, b: float, shift: float) -> None:
    plain = bradley_terry_loss(chosen_rewards=number(a), rejected_rewards=number(b))
    moved = bradley_terry_loss(chosen_rewards=number(a + shift), rejected_rewards=number(b + shift))
    assert plain.item() == pytest.approx(moved.item(), abs=1e-9)


@given(scores, scores)
def test_swapping_gives_the_other_probability(a: float, b: float) -> None:
    win = bradley_terry_loss(chosen_rewards=number(a), rejected_rewards=number(b)).item()
    lose = bradley_terry_loss(chosen_rewards=number(b), rejected_rewards=number(a)).item()
    assert math.exp(-win) + math.exp(-lose) == pytest.approx(1.0)


def test_gradient_is_half_at_equal_scores() -> None:
    chosen, rejected = number(0.0).requires_grad_(), number(0.0).requires_grad_()
    loss = bradley_terry_loss(chosen_rewards=chosen, rejected_rewards=rejected)
    grads = torch.autograd.grad(loss.sum(), [chosen, rejected])
    assert [g.item() for g in grads] == pytest.approx([-0.5, 0.5])
