import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import logistic_loss
from preftune.losses.length import (
    ipo_loss,
    ipo_sum_loss,
    length_normalised_logit,
    r_dpo_logit,
)

Lengths = dict[str, Tensor]
PairLoss = Callable[[Tensor, Tensor, Lengths, float], Tensor]


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def lengths(chosen: float, rejected: float) -> Lengths:
    return {"chosen_lengths": number(chosen), "rejected_lengths": number(rejected)}


LOSSES: dict[str, PairLoss] = {
    "ipo": lambda c, r, n, tau: ipo_loss(chosen_logratio=c, rejected_logratio=r, **n, tau=tau),
    "ipo_sum": lambda c, r, n, tau: ipo_sum_loss(chosen_logratio=c, rejected_logratio=r, tau=tau),
    "sigmoid_norm": lambda c, r, n, beta: logistic_loss(
        length_normalised_logit(chosen_logratio=c, rejected_logratio=r, **n, beta=beta)
    ),
    "r_dpo": lambda c, r, n, beta: logistic_loss(
        r_dpo_logit(chosen_logratio=c, rejected_logratio=r, **n, beta=beta, alpha=0.05)
    ),
}
A_LENGTHS, B_LENGTHS = lengths(5.0, 8.0), lengths(6.0, 4.0)


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("ipo", 25.0, [20.025625, -1.79, 1.11875]),
        ("ipo_sum", 25.0, [4.0, -4.0, 4.0]),
        ("sigmoid_norm", 0.693147, [0.667242, -0.009738, 0.006086]),
        ("r_dpo", 0.770957, [0.620957, -0.046257, 0.046257]),
    ],
    ids=["ipo", "ipo_sum", "sigmoid_norm", "r_dpo"],
)
def test_length_losses_meet_published_vector_a(
    name: str, start: float, expected: list[float]
) -> None:
    loss = LOSSES[name]
    assert loss(number(0.0), number(0.0), A_LENGTHS, 0.1).item() == pytest.approx(start, abs=5.1e-7)
    chosen, rejected = number(2.0).requires_grad_(), number(-1.0).requires_grad_()
    value = loss(chosen, rejected, A_LENGTHS, 0.1)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    assert [value.item(), *(g.item() for g in gradients)] == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("ipo", 1.0, [1.890625, -0.458333, 0.6875]),
        ("ipo_sum", 1.0, [9.0, -6.0, 6.0]),
        ("sigmoid_norm", 0.693147, [0.791285, -0.045562, 0.068342]),
        ("r_dpo", 0.644397, [1.241154, -0.355475, 0.355475]),
    ],
    ids=["ipo", "ipo_sum", "sigmoid_norm", "r_dpo"],
)
def test_length_losses_meet_published_vector_b(
    name: str, start: float, expected: list[float]
) -> None:
    loss = LOSSES[name]
    assert loss(number(0.0), number(0.0), B_LENGTHS, 0.5).item() == pytest.approx(start, abs=5.1e-7)
    chosen, rejected = number(-1.5).requires_grad_(), number(0.5).requires_grad_()
    value = loss(chosen, rejected, B_LENGTHS, 0.5)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    assert [value.item(), *(g.item() for g in gradients)] == pytest.approx(expected, abs=5.1e-7)


@given(st.floats(0.05, 5.0))
def test_ipo_starts_at_one_over_four_tau_squared_and_is_zero_at_its_target(tau: float) -> None:
    n = lengths(3.0, 7.0)
    start = ipo_loss(chosen_logratio=number(0.0), rejected_logratio=number(0.0), **n, tau=tau)
    target = number(3.0 / (2 * tau))  # 1 / (2 tau) on the average of three tokens
    end = ipo_loss(chosen_logratio=target, rejected_logratio=number(0.0), **n, tau=tau)
    assert start.item() == pytest.approx(1 / (4 * tau**2))
    assert end.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("tau", "probability"), [(0.1, 0.993307), (1.0, 0.622459)])
def test_ipo_optimum_of_two_responses_is_the_sigmoid_of_half_over_tau(
    tau: float, probability: float
) -> None:
    # a uniform reference: the margin is the logit of p(chosen)
    margin = number(math.log(probability / (1 - probability)))
    loss = ipo_sum_loss(chosen_logratio=margin, rejected_logratio=number(0.0), tau=tau)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


@given(st.floats(0.05, 5.0))
def test_ipo_optimum_of_three_ordered_responses_has_equal_steps(tau: float) -> None:
    h = number(2 / (3 * tau), 1 / (3 * tau), 0.0).requires_grad_()  # best first
    better, worse = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 2])
    loss = ipo_sum_loss(chosen_logratio=h[better], rejected_logratio=h[worse], tau=tau)
    (gradient,) = torch.autograd.grad(loss.sum(), [h])
    assert gradient.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@given(st.floats(-100.0, 100.0), st.floats(-100.0, 100.0))
def test_ipo_of_one_token_responses_is_the_summed_form(c: float, r: float) -> None:
    pair = {"chosen_logratio": number(c), "rejected_logratio": number(r)}
    averaged = ipo_loss(**pair, **lengths(1.0, 1.0), tau=0.1)
    assert averaged.tolist() == ipo_sum_loss(**pair, tau=0.1).tolist()


@given(st.integers(1, 500), st.integers(1, 500), st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_length_normalised_logit_depends_on_averages_only(
    n_w: int, n_l: int, chosen_average: float, rejected_average: float
) -> None:
    logit = length_normalised_logit(
        chosen_logratio=number(n_w * chosen_average),
        rejected_logratio=number(n_l * rejected_average),
        **lengths(float(n_w), float(n_l)),
        beta=5.0,
    )
    assert logit.item() == pytest.approx(5 * (chosen_average - rejected_average), abs=1e-9)


@given(st.floats(-1.0, 1.0), st.integers(1, 500), st.integers(1, 500))
def test_r_dpo_starts_where_length_alone_explains_the_label(
    alpha: float, n_w: int, n_l: int
) -> None:
    logit = r_dpo_logit(
        chosen_logratio=number(0.0),
        rejected_logratio=number(0.0),
        **lengths(float(n_w), float(n_l)),
        beta=0.1,
        alpha=alpha,
    )
    assert logit.item() == pytest.approx(alpha * (n_w - n_l))


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "setting"),
    [("ipo", "tau"), ("ipo_sum", "tau"), ("sigmoid_norm", "beta"), ("r_dpo", "beta")],
)
def test_length_losses_refuse_a_scale_that_is_not_positive(
    name: str, setting: str, bad: float
) -> None:
    with pytest.raises(ValueError, match=setting):
        LOSSES[name](number(0.0), number(0.0), A_LENGTHS, bad)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf])
def test_r_dpo_refuses_an_alpha_that_is_not_finite(alpha: float) -> None:
    pair = {"chosen_logratio": number(0.0), "rejected_logratio": number(0.0)}
    with pytest.raises(ValueError, match="alpha"):
        r_dpo_logit(**pair, **A_LENGTHS, beta=0.1, alpha=alpha)
