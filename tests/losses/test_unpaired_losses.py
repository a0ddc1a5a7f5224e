import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.unpaired import apo_zero_unpaired_loss, bco_loss, kto_kl, kto_loss

GOOD_AND_BAD = torch.tensor([True, False])
logratios = st.floats(-1e4, 1e4)


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def kto(logratio: Tensor, kl: float, good: float = 1.0, bad: float = 1.0) -> Tensor:
    return kto_loss(
        logratio=logratio,
        desirable=GOOD_AND_BAD,
        kl=scalar(kl),
        beta=0.1,
        desirable_weight=good,
        undesirable_weight=bad,
    )


def bco(logratio: Tensor, beta: float, delta: float) -> Tensor:
    return bco_loss(logratio=logratio, desirable=GOOD_AND_BAD, beta=beta, delta=scalar(delta))


def apo(logratio: Tensor) -> Tensor:
    return apo_zero_unpaired_loss(logratio=logratio, desirable=GOOD_AND_BAD, beta=0.1)


def test_kto_meets_published_vectors() -> None:
    assert kto(number(2.0, -1.0), kl=0.5).tolist() == pytest.approx([0.462570] * 2, abs=1e-6)
    assert kto(number(0.0, 0.0), kl=0.0).tolist() == [0.5, 0.5]


def test_kto_weights_scale_their_own_kind_only() -> None:
    loss = kto(number(0.0, 0.0), kl=0.0, good=4 / 3, bad=0.5)
    assert loss.tolist() == pytest.approx([2 / 3, 0.25], abs=1e-12)


def test_kto_gradient_matches_hand_calculation() -> None:
    # at the reference point s' = 1/4, so -+ weight * beta / 4
    logratio = number(0.5, 0.5).requires_grad_()
    loss = kto(logratio, kl=0.5, good=1.2, bad=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), [logratio])
    assert gradient.tolist() == pytest.approx([-0.03, 0.025])


def test_kto_kl_is_the_mean_and_never_negative() -> None:
    assert kto_kl(number(1.0, 3.0)).item() == 2.0
    assert kto_kl(number(1.0, -3.0)).item() == 0.0
    assert not kto_kl(number(1.0, 3.0).requires_grad_()).requires_grad


def test_kto_kl_of_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        kto_kl(number(1.0))


@pytest.mark.parametrize(
    ("c", "r", "beta", "delta", "value"),
    [
        (2.0, -1.0, 0.1, 0.0, 1.242536),
        (2.0, -1.0, 0.1, 0.05, 1.241914),  # delta: mean of the rewards .2 and -.1
        (-1.5, 0.5, 0.5, 0.0, 1.962810),
        (-1.5, 0.5, 0.5, -0.25, 1.948154),
        (0.0, 0.0, 0.5, 0.0, 1.386294),
    ],
)
def test_bco_of_a_pair_meets_published_vectors(
    c: float, r: float, beta: float, delta: float, value: float
) -> None:
    assert bco(number(c, r), beta, delta).sum().item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("c", "r", "beta", "expected"),
    [(2.0, -1.0, 0.1, [-0.045017, 0.047502]), (-1.5, 0.5, 0.5, [-0.339589, 0.281088])],
)
def test_bco_gradient_meets_published_vectors(
    c: float, r: float, beta: float, expected: list[float]
) -> None:
    logratio = number(c, r).requires_grad_()
    (gradient,) = torch.autograd.grad(bco(logratio, beta, 0.0).sum(), [logratio])
    assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


def test_apo_zero_unpaired_meets_published_vectors() -> None:
    assert apo(number(2.0, -1.0)).tolist() == pytest.approx([0.450166, 0.475021], abs=1e-6)


def test_apo_zero_unpaired_gradient_meets_published_vector() -> None:
    logratio = number(2.0, -1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(apo(logratio).sum(), [logratio])
    assert gradient.tolist() == pytest.approx([-0.024752, 0.024938], abs=1e-6)


@given(logratios, logratios)
def test_apo_zero_unpaired_is_kto_without_reference_point(good: float, bad: float) -> None:
    both = number(good, bad)
    assert apo(both).tolist() == pytest.approx(kto(both, kl=0.0).tolist(), abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [lambda h: kto(h, kl=3.0), lambda h: bco(h, 0.5, 0.2), apo],
    ids=["kto", "bco", "apo_zero"],
)
@given(a=logratios, b=logratios)
def test_unpaired_losses_are_finite_rise_with_bad_and_fall_with_good(
    loss: Callable[[Tensor], Tensor], a: float, b: float
) -> None:
    low, high = sorted((a, b))
    logratio = number(low, low).requires_grad_()
    at_low, at_high = loss(logratio), loss(number(high, high))
    (gradient,) = torch.autograd.grad(at_low.sum(), [logratio])
    assert at_low.isfinite().all()
    assert gradient.isfinite().all()
    assert at_high[0].item() <= at_low[0].item()
    assert at_high[1].item() >= at_low[1].item()


def test_a_label_says_which_side_and_the_order_of_rows_nothing() -> None:
    logratio, labels = number(1.0, -2.0, 0.3), torch.tensor([True, False, False])
    for order in (torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])):
        loss = bco_loss(logratio=logratio, desirable=labels, beta=0.3, delta=scalar(0.1))
        moved = bco_loss(
            logratio=logratio[order], desirable=labels[order], beta=0.3, delta=scalar(0.1)
        )
        assert moved.equal(loss[order])


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_unpaired_losses_refuse_a_beta_that_teaches_nothing(beta: float) -> None:
    logratio = number(1.0, 1.0)
    with pytest.raises(ValueError, match="beta"):
        bco(logratio, beta, 0.0)
    with pytest.raises(ValueError, match="beta"):
        apo_zero_unpaired_loss(logratio=logratio, desirable=GOOD_AND_BAD, beta=beta)
    with pytest.raises(ValueError, match="beta"):
        kto_loss(
            logratio=logratio,
            desirable=GOOD_AND_BAD,
            kl=scalar(0.0),
            beta=beta,
            desirable_weight=1.0,
            undesirable_weight=1.0,
        )


@pytest.mark.parametrize(
    ("good", "bad", "name"), [(0.0, 1.0, "desirable_weight"), (1.0, -1.0, "undesirable_weight")]
)
def test_kto_refuses_weights_that_are_not_positive(good: float, bad: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        kto(number(1.0, 1.0), kl=0.0, good=good, bad=bad)
