import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.bounded import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    discopop_loss,
    exo_loss,
    nca_loss,
    sppo_hard_loss,
)

betas = st.floats(0.01, 5.0)
logratios = st.floats(-1e4, 1e4)


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value_and_gradients(
    loss: Callable[..., Tensor], c: float, r: float, **settings: float
) -> list[float]:
    """The loss of one pair, then d loss / d chosen_logratio and d loss / d rejected_logratio."""
    chosen, rejected = number(c).requires_grad_(), number(r).requires_grad_()
    value = loss(chosen_logratio=chosen, rejected_logratio=rejected, **settings)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    return [value.item(), *(gradient.item() for gradient in gradients)]


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        (exo_loss, {"flip_rate": 1e-3}, [2.258199, -0.161508, 0.161508]),
        (nca_loss, {}, [1.319407, -0.017525, 0.023751]),
        (bco_pair_loss, {"delta": 0.0}, [1.242536, -0.045017, 0.047502]),
        (bco_pair_loss, {"delta": 0.05}, [1.241914, -0.046257, 0.046257]),  # .1 * (2 - 1) / 2
        (sppo_hard_loss, {}, [25.0, -6.0, 8.0]),
        (apo_zero_loss, {}, [0.925187, -0.024752, 0.024938]),
        (apo_down_loss, {}, [0.975391, 0.000306, 0.024446]),
        (discopop_loss, {"tau": 0.05}, [0.740357, -0.073084, 0.073084]),
    ],
    ids=["exo", "nca", "bco", "bco mean", "sppo_hard", "apo_zero", "apo_down", "discopop"],
)
def test_bounded_losses_meet_published_vector_a(
    loss: Callable[..., Tensor], settings: dict[str, float], expected: list[float]
) -> None:
    got = value_and_gradients(loss, 2.0, -1.0, beta=0.1, **settings)
    assert got == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        (exo_loss, {"flip_rate": 1e-3}, [4.468040, -0.777281, 0.777281]),
        (nca_loss, {}, [1.743276, -0.259384, 0.140544]),
        (bco_pair_loss, {"delta": 0.0}, [1.962810, -0.339589, 0.281088]),
        (bco_pair_loss, {"delta": -0.25}, [1.948154, -0.311230, 0.311230]),  # .5 (-1.5 + .5) / 2
        (sppo_hard_loss, {}, [8.5, -5.0, 3.0]),
        (apo_zero_loss, {}, [1.241355, -0.108947, 0.123067]),
        (apo_down_loss, {}, [1.051880, 0.010642, 0.098306]),
        (discopop_loss, {"tau": 0.05}, [1.313262, -0.365529, 0.365529]),
    ],
    ids=["exo", "nca", "bco", "bco mean", "sppo_hard", "apo_zero", "apo_down", "discopop"],
)
def test_bounded_losses_meet_published_vector_b(
    loss: Callable[..., Tensor], settings: dict[str, float], expected: list[float]
) -> None:
    got = value_and_gradients(loss, -1.5, 0.5, beta=0.5, **settings)
    assert got == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(
    ("loss", "settings", "start"),
    [
        (exo_loss, {"beta": 0.1, "flip_rate": 1e-3}, 2.761231),
        (exo_loss, {"beta": 0.1, "flip_rate": 0.1}, 0.510826),
        (nca_loss, {"beta": 0.1}, 1.386294),
        (bco_pair_loss, {"beta": 0.1, "delta": 0.0}, 1.386294),
        (sppo_hard_loss, {"beta": 0.1}, 50.0),
        (sppo_hard_loss, {"beta": 0.5}, 2.0),
        (apo_zero_loss, {"beta": 0.1}, 1.0),
        (apo_down_loss, {"beta": 0.1}, 1.0),
        (discopop_loss, {"beta": 0.1, "tau": 0.05}, 0.846574),
    ],
    ids=["exo", "exo .1", "nca", "bco", "sppo .1", "sppo .5", "apo_zero", "apo_down", "discopop"],
)
def test_bounded_losses_start_at_published_values(
    loss: Callable[..., Tensor], settings: dict[str, float], start: float
) -> None:
    assert value_and_gradients(loss, 0.0, 0.0, **settings)[0] == pytest.approx(start, abs=5.1e-7)


@given(betas, st.floats(0.01, 0.49))
def test_exo_is_zero_and_flat_at_the_logit_of_its_label(beta: float, flip_rate: float) -> None:
    margin = math.log((1 - flip_rate) / flip_rate) / beta
    got = value_and_gradients(exo_loss, margin, 0.0, beta=beta, flip_rate=flip_rate)
    assert got == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@given(logratios, logratios, st.floats(1e-6, 0.49))
def test_exo_is_a_divergence_and_never_negative(c: float, r: float, flip_rate: float) -> None:
    assert value_and_gradients(exo_loss, c, r, beta=0.1, flip_rate=flip_rate)[0] >= -1e-12


@given(betas, logratios)
def test_nca_holds_chosen_at_log_2_and_always_lowers_rejected(beta: float, r: float) -> None:
    _, chosen_gradient, rejected_gradient = value_and_gradients(
        nca_loss, math.log(2) / beta, r, beta=beta
    )
    assert chosen_gradient == pytest.approx(0.0, abs=1e-12)
    assert rejected_gradient >= 0


@given(logratios, logratios, st.floats(-5.0, 5.0))
def test_bco_with_both_rewards_at_delta_is_two_log_2(c: float, r: float, delta: float) -> None:
    at_delta = value_and_gradients(bco_pair_loss, delta, delta, beta=1.0, delta=delta)[0]
    assert at_delta == pytest.approx(2 * math.log(2))
    _, chosen_gradient, rejected_gradient = value_and_gradients(
        bco_pair_loss, c, r, beta=1.0, delta=delta
    )
    assert chosen_gradient <= 0 <= rejected_gradient


@given(st.floats(1e-3, 5.0))
def test_sppo_is_zero_at_its_targets(beta: float) -> None:
    target = 1 / (2 * beta)
    got = value_and_gradients(sppo_hard_loss, target, -target, beta=beta)
    assert got == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@given(logratios, logratios, betas)
def test_apo_losses_stay_between_0_and_2(c: float, r: float, beta: float) -> None:
    for loss in (apo_zero_loss, apo_down_loss):
        value, _, rejected_gradient = value_and_gradients(loss, c, r, beta=beta)
        assert 0 <= value <= 2
        assert rejected_gradient >= 0


def test_apo_zero_raises_chosen_and_apo_down_leaves_it_at_the_start() -> None:
    zero = value_and_gradients(apo_zero_loss, 0.0, 0.0, beta=0.2)
    down = value_and_gradients(apo_down_loss, 0.0, 0.0, beta=0.2)
    assert zero[1:] == pytest.approx([-0.05, 0.05])  # beta / 4
    assert down[1:] == pytest.approx([0.0, 0.05])


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.2, 1.0])
def test_discopop_slope_at_the_start_is_its_closed_form(tau: float) -> None:
    slope = value_and_gradients(discopop_loss, 0.0, 0.0, beta=1.0, tau=tau)[1]
    assert slope == pytest.approx((1 - math.log(2)) / (4 * tau) - 0.75)


def test_discopop_is_logistic_far_left_and_exponential_far_right() -> None:
    left = value_and_gradients(discopop_loss, -20.0, 0.0, beta=1.0, tau=0.05)[0]
    right = value_and_gradients(discopop_loss, 20.0, 0.0, beta=1.0, tau=0.05)[0]
    assert left == pytest.approx(math.log1p(math.exp(20)))
    assert right == pytest.approx(math.exp(-20))


@pytest.mark.parametrize(
    ("loss", "settings", "named"),
    [
        (exo_loss, {"beta": 0.1, "flip_rate": 0.0}, "flip_rate"),
        (exo_loss, {"beta": 0.1, "flip_rate": 0.5}, "flip_rate"),
        (exo_loss, {"beta": 0.0, "flip_rate": 0.1}, "beta"),
        (nca_loss, {"beta": -1.0}, "beta"),
        (bco_pair_loss, {"beta": 0.0, "delta": 0.0}, "beta"),
        (bco_pair_loss, {"beta": 0.1, "delta": math.nan}, "delta"),
        (sppo_hard_loss, {"beta": 0.0}, "beta"),
        (apo_zero_loss, {"beta": math.nan}, "beta"),
        (apo_down_loss, {"beta": math.inf}, "beta"),
        (discopop_loss, {"beta": 0.0, "tau": 0.05}, "beta"),
        (discopop_loss, {"beta": 0.1, "tau": 0.0}, "tau"),
        (discopop_loss, {"beta": 0.1, "tau": 2.0}, "tau"),
    ],
    ids=[
        *("exo rate 0", "exo rate half", "exo beta", "nca beta", "bco beta", "bco delta"),
        *("sppo beta", "apo_zero beta", "apo_down beta", "discopop beta"),
        *("discopop tau 0", "discopop tau 2"),
    ],
)
def test_bounded_losses_refuse_settings_outside_their_range(
    loss: Callable[..., Tensor], settings: dict[str, float], named: str
) -> None:
    with pytest.raises(ValueError, match=f"{named} is"):
        value_and_gradients(loss, 0.0, 0.0, **settings)
