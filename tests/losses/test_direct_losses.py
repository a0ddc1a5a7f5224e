import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import dpo_loss, offset_dpo_loss, preference_margin, soft_dpo_loss

NAMES = (
    "policy_chosen_logps",
    "policy_rejected_logps",
    "reference_chosen_logps",
    "reference_rejected_logps",
)
Four = tuple[float, float, float, float]
logps = st.tuples(*[st.floats(-500.0, 0.0)] * 4)


def tensors_of(values: Four) -> dict[str, Tensor]:
    return {
        name: torch.tensor([value], dtype=torch.float64, requires_grad=True)
        for name, value in zip(NAMES, values, strict=True)
    }


def loss(values: Four, beta: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    tensors = tensors_of(values)
    return dpo_loss(**tensors, beta=beta), tensors


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_loss_is_log_2_when_policy_equals_reference() -> None:
    assert loss((-10.0, -12.0, -10.0, -12.0))[0].item() == pytest.approx(math.log(2))


def test_dpo_loss_matches_hand_calculation() -> None:
    # margin: (-8 - -15) - (-10 - -12) = 5, so -log sigmoid(0.5) = log(1 + e^-0.5)
    assert loss((-8.0, -15.0, -10.0, -12.0))[0].item() == pytest.approx(math.log1p(math.exp(-0.5)))


@pytest.mark.parametrize(
    ("c", "r", "beta", "value", "gradient"),
    [(2.0, -1.0, 0.1, 0.554355, 0.042556), (-1.5, 0.5, 0.5, 1.313262, 0.365529)],
)
def test_dpo_loss_meets_published_vectors(
    c: float, r: float, beta: float, value: float, gradient: float
) -> None:
    got, tensors = loss((c, r, 0.0, 0.0), beta=beta)
    grads = torch.autograd.grad(got.sum(), list(tensors.values())[:2])
    assert got.item() == pytest.approx(value, abs=1e-6)
    assert [g.item() for g in grads] == pytest.approx([-gradient, gradient], abs=1e-6)


def test_dpo_gradient_raises_chosen_and_lowers_rejected() -> None:
    value, tensors = loss((-8.0, -9.0, -8.0, -9.0), beta=0.2)
    grads = torch.autograd.grad(value.sum(), list(tensors.values()))
    assert [g.item() for g in grads] == pytest.approx([-0.1, 0.1, 0.1, -0.1])  # beta / 2


@given(logps)
def test_swapping_chosen_and_rejected_gives_the_other_probability(values: Four) -> None:
    a, b, c, d = values
    win, lose = math.exp(-loss((a, b, c, d))[0].item()), math.exp(-loss((b, a, d, c))[0].item())
    assert win + lose == pytest.approx(1.0)


@given(logps, st.floats(1e-3, 10.0))
def test_dpo_loss_is_finite_with_finite_gradient_at_extremes(values: Four, beta: float) -> None:
    value, tensors = loss(values, beta=beta)
    grads = torch.autograd.grad(value.sum(), list(tensors.values()))
    assert math.isfinite(value.item())
    assert all(math.isfinite(g.item()) and abs(g.item()) <= beta for g in grads)


def test_order_of_the_batch_changes_nothing() -> None:
    a, b = (-8.0, -15.0, -10.0, -12.0), (-3.0, -1.0, -2.0, -2.0)
    both = {name: number(x, y) for name, x, y in zip(NAMES, a, b, strict=True)}
    one_by_one = [loss(a)[0].item(), loss(b)[0].item()]
    assert dpo_loss(**both, beta=0.1).tolist() == pytest.approx(one_by_one)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_beta_that_teaches_nothing_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        loss((-1.0, -1.0, -1.0, -1.0), beta=beta)


def test_soft_label_one_is_dpo_and_one_half_is_even_handed() -> None:
    margin = number(3.0)
    hard = soft_dpo_loss(margin=margin, probability=number(1.0), beta=0.1)
    even = soft_dpo_loss(margin=margin, probability=number(0.5), beta=0.1)
    mirrored = soft_dpo_loss(margin=-margin, probability=number(0.5), beta=0.1)
    assert hard.item() == pytest.approx(0.554355, abs=1e-6)
    assert even.item() == pytest.approx(mirrored.item())


def test_soft_label_meets_published_vector() -> None:
    soft = soft_dpo_loss(margin=number(3.0, -2.0), probability=number(0.9, 0.9), beta=0.1)
    assert soft[0].item() == pytest.approx(0.584355, abs=1e-6)


@given(st.floats(0.05, 0.95), st.floats(0.05, 2.0))
def test_soft_label_optimum_is_the_logit_of_the_probability(p: float, beta: float) -> None:
    margin = number(math.log(p / (1 - p)) / beta).requires_grad_()
    value = soft_dpo_loss(margin=margin, probability=number(p), beta=beta)
    (gradient,) = torch.autograd.grad(value.sum(), [margin])
    assert gradient.item() == pytest.approx(0.0, abs=1e-9)


def test_offset_meets_published_vectors_and_zero_is_dpo() -> None:
    a = offset_dpo_loss(margin=number(3.0), offset=number(0.2), beta=0.1)
    b = offset_dpo_loss(margin=number(-2.0), offset=number(0.2), beta=0.5)
    start = offset_dpo_loss(margin=number(0.0), offset=number(0.2), beta=0.1)
    assert [a.item(), b.item(), start.item()] == pytest.approx(
        [0.644397, 1.463282, 0.798139], abs=1e-6
    )
    plain = offset_dpo_loss(margin=number(3.0), offset=number(0.0), beta=0.1)
    assert plain.item() == pytest.approx(0.554355, abs=1e-6)


def test_loss_falls_as_the_margin_grows() -> None:
    values = [loss((m, 0.0, 0.0, 0.0))[0].item() for m in (-500.0, -5.0, 0.0, 5.0)]
    assert all(later < earlier for earlier, later in pairwise(values))


def test_margin_ignores_what_policy_and_reference_share() -> None:
    margin = preference_margin(**tensors_of((-8.0, -15.0, -10.0, -12.0)))
    assert margin.item() == pytest.approx(5.0)
