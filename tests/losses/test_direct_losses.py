import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import (
    dpo_logit,
    dpo_loss,
    dpop_logit,
    flip_corrected_loss,
    hinge_loss,
    logistic_loss,
    offset_dpo_loss,
    offset_loss,
    preference_margin,
    smoothed_loss,
    soft_dpo_loss,
    soft_label_loss,
)

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


Treatment = Callable[[Tensor], Tensor]
A, B = {"c": 2.0, "r": -1.0, "beta": 0.1}, {"c": -1.5, "r": 0.5, "beta": 0.5}
TREATMENTS: dict[str, Treatment] = {
    "sigmoid": logistic_loss,
    "cdpo": lambda logit: smoothed_loss(logit, flip_rate=0.1),
    "soft label": lambda logit: soft_label_loss(logit, probability=torch.full_like(logit, 0.9)),
    "robust": lambda logit: flip_corrected_loss(logit, flip_rate=0.1),
    "offset": lambda logit: offset_loss(logit, offset=torch.full_like(logit, 0.2)),
    "hinge": hinge_loss,
}


def value_and_gradients(loss: Treatment, c: float, r: float, beta: float) -> list[float]:
    """The loss of one pair, then d loss / d chosen_logratio and d loss / d rejected_logratio."""
    chosen, rejected = number(c).requires_grad_(), number(r).requires_grad_()
    value = loss(dpo_logit(chosen_logratio=chosen, rejected_logratio=rejected, beta=beta))
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    return [value.item(), *(gradient.item() for gradient in gradients)]


@pytest.mark.parametrize(
    ("name", "start", "at_a", "at_b"),
    [
        ("sigmoid", 0.693147, (0.554355, 0.042556), (1.313262, 0.365529)),
        ("cdpo", 0.693147, (0.584355, 0.032556), (1.213262, 0.315529)),
        ("soft label", 0.693147, (0.584355, 0.032556), (1.213262, 0.315529)),
        ("robust", 0.693147, (0.516855, 0.055056), (1.438262, 0.428029)),
        ("offset", 0.798139, (0.644397, 0.047502), (1.463282, 0.384262)),
        ("hinge", 1.0, (0.7, 0.1), (2.0, 0.5)),
    ],
    ids=list(TREATMENTS),
)
def test_label_treatments_meet_published_values_and_gradients(
    name: str, start: float, at_a: tuple[float, float], at_b: tuple[float, float]
) -> None:
    loss = TREATMENTS[name]
    assert loss(number(0.0)).item() == pytest.approx(start, abs=5.1e-7)
    for vector, (value, slope) in ((A, at_a), (B, at_b)):
        expected = [value, -slope, slope]
        assert value_and_gradients(loss, **vector) == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(
    ("penalty", "vector", "expected"),
    [
        (5.0, A, [0.554355, -0.042556, 0.042556]),
        (5.0, B, [4.758614, -2.974268, 0.495711]),
        (50.0, A, [0.554355, -0.042556, 0.042556]),
        (50.0, B, [38.5, -25.5, 0.5]),
    ],
    ids=["5 above", "5 below", "50 above", "50 below"],
)
def test_dpop_meets_published_values_and_gradients(
    penalty: float, vector: dict[str, float], expected: list[float]
) -> None:
    chosen, rejected = number(vector["c"]).requires_grad_(), number(vector["r"]).requires_grad_()
    logit = dpop_logit(
        chosen_logratio=chosen,
        rejected_logratio=rejected,
        beta=vector["beta"],
        penalty=penalty,
    )
    value = logistic_loss(logit)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    assert [value.item(), *(g.item() for g in gradients)] == pytest.approx(expected, abs=5.1e-7)


def test_dpop_starts_at_log_2() -> None:
    zero = number(0.0)
    logit = dpop_logit(chosen_logratio=zero, rejected_logratio=zero, beta=0.3, penalty=50.0)
    assert logistic_loss(logit).item() == pytest.approx(math.log(2))


@given(st.floats(0.0, 1e4), st.floats(-1e4, 1e4), st.floats(0.0, 100.0))
def test_dpop_is_dpo_while_chosen_is_above_the_reference(
    c: float, r: float, penalty: float
) -> None:
    pair = {"chosen_logratio": number(c), "rejected_logratio": number(r)}
    positive = dpop_logit(**pair, beta=0.1, penalty=penalty)
    assert positive.tolist() == dpo_logit(**pair, beta=0.1).tolist()


@given(st.floats(0.01, 0.49))
def test_smoothed_optimum_is_the_logit_of_the_kept_share(flip_rate: float) -> None:
    logit = number(math.log((1 - flip_rate) / flip_rate)).requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_loss(logit, flip_rate=flip_rate).sum(), [logit])
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)


@given(st.floats(-50.0, 50.0), st.floats(0.0, 0.45))
def test_flip_corrected_loss_averaged_over_flips_is_the_clean_loss(
    logit: float, flip_rate: float
) -> None:
    kept = flip_corrected_loss(number(logit), flip_rate=flip_rate).item()
    flipped = flip_corrected_loss(number(-logit), flip_rate=flip_rate).item()
    clean = max(0.0, -logit) + math.log1p(math.exp(-abs(logit)))
    assert (1 - flip_rate) * kept + flip_rate * flipped == pytest.approx(clean, abs=1e-9)


def test_flip_corrected_loss_falls_below_zero_without_bound() -> None:
    # far right: [0 + 0.1 * -logit] / 0.8
    assert flip_corrected_loss(number(800.0), flip_rate=0.1).item() == pytest.approx(-100.0)


def test_hinge_stops_teaching_at_logit_one() -> None:
    logit = number(0.5, 1.5).requires_grad_()
    (gradient,) = torch.autograd.grad(hinge_loss(logit).sum(), [logit])
    assert gradient.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("flip_rate", [-0.1, 0.5, 1.0, math.nan])
@pytest.mark.parametrize("loss", [smoothed_loss, flip_corrected_loss], ids=["cdpo", "robust"])
def test_flip_rate_of_a_half_or_more_is_refused(
    loss: Callable[..., Tensor], flip_rate: float
) -> None:
    with pytest.raises(ValueError, match="flip_rate"):
        loss(number(0.0), flip_rate=flip_rate)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_logit_with_a_bad_beta_is_refused(beta: float) -> None:
    pair = {"chosen_logratio": number(1.0), "rejected_logratio": number(0.0)}
    with pytest.raises(ValueError, match="beta"):
        dpo_logit(**pair, beta=beta)
    with pytest.raises(ValueError, match="beta"):
        dpop_logit(**pair, beta=beta, penalty=5.0)


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf])
def test_dpop_with_a_bad_penalty_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="penalty"):
        dpop_logit(
            chosen_logratio=number(1.0), rejected_logratio=number(0.0), beta=0.1, penalty=penalty
        )
