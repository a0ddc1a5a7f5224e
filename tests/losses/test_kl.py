import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.kl import adapted_kl_coef, kl_k1, kl_k2, kl_k3, kl_k3_straight_through

ESTIMATORS = (kl_k1, kl_k2, kl_k3, kl_k3_straight_through)
POLICY, REFERENCE = (0.5, 0.3, 0.2), (0.4, 0.4, 0.2)
TRUE_GRADIENT = [0.098938, -0.093885, -0.005053]  # of KL(policy : reference), in the logits


def tokens(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: tuple[float, ...]) -> Tensor:
    return tokens(*values).log()


@pytest.mark.parametrize(
    ("x", "k1", "k2", "k3"),
    [
        (0.2, 0.2, 0.02, 0.018731),
        (-0.2, -0.2, 0.02, 0.021403),
        (1.0, 1.0, 0.5, 0.367879),
        (-1.0, -1.0, 0.5, 0.718282),
    ],
)
def test_kl_estimators_meet_published_vectors(x: float, k1: float, k2: float, k3: float) -> None:
    policy, reference = tokens(-2.0 + x), tokens(-2.0)
    got = [e(policy_logprobs=policy, reference_logprobs=reference).item() for e in ESTIMATORS]
    assert got == pytest.approx([k1, k2, k3, k3], abs=1e-6)


def expected(name: int, power: int = 1) -> float:
    """E over the policy's own draws of the estimator (to a power)."""
    value = ESTIMATORS[name](
        policy_logprobs=probabilities(POLICY), reference_logprobs=probabilities(REFERENCE)
    )
    return (tokens(*POLICY) * value**power).sum().item()


def test_kl_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    kl = sum(p * math.log(p / q) for p, q in zip(POLICY, REFERENCE, strict=True))
    assert kl == pytest.approx(0.025267, abs=1e-6)
    assert [expected(0), expected(2), expected(3)] == pytest.approx([kl] * 3, abs=1e-12)
    assert expected(1) == pytest.approx(0.024862, abs=1e-6)


def test_kl_k3_varies_less_than_k1() -> None:
    spread = [math.sqrt(expected(k, 2) - expected(k) ** 2) for k in range(3)]
    assert spread == pytest.approx([0.221554, 0.014335, 0.015956], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "gradient"),
    [(0, [0, 0, 0]), (1, TRUE_GRADIENT), (2, [0.1, -0.1, 0]), (3, TRUE_GRADIENT)],
    ids=["k1", "k2", "k3", "straight_through"],
)
def test_kl_as_a_loss_has_the_published_expected_gradient(name: int, gradient: list[float]) -> None:
    logits = probabilities(POLICY).requires_grad_()
    value = ESTIMATORS[name](
        policy_logprobs=logits.log_softmax(-1), reference_logprobs=probabilities(REFERENCE)
    )
    (got,) = torch.autograd.grad((tokens(*POLICY) * value).sum(), [logits])
    assert got[0].tolist() == pytest.approx(gradient, abs=1e-6)


def test_true_gradient_is_that_of_the_kl() -> None:
    logits = probabilities(POLICY).requires_grad_()
    policy = logits.log_softmax(-1)
    kl = (policy.exp() * (policy - probabilities(REFERENCE))).sum()
    (got,) = torch.autograd.grad(kl, [logits])
    assert got[0].tolist() == pytest.approx(TRUE_GRADIENT, abs=1e-6)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=6))
def test_kl_of_a_policy_from_itself_is_exactly_zero(values: list[float]) -> None:
    same = tokens(*values)
    for estimator in ESTIMATORS:
        assert (estimator(policy_logprobs=same, reference_logprobs=same) == 0).all()


@given(st.floats(-700, 700))
def test_kl_k2_and_k3_are_never_negative(x: float) -> None:
    for estimator in ESTIMATORS[1:]:
        value = estimator(policy_logprobs=tokens(x), reference_logprobs=tokens(0.0))
        assert value.item() >= 0


@pytest.mark.parametrize(("x", "pull"), [(3.0, 3.0), (-3.0, -3.0), (500.0, 20.0), (-500.0, -20.0)])
def test_straight_through_pull_is_held_and_never_vanishes(x: float, pull: float) -> None:
    policy = torch.tensor([[x]], requires_grad=True)  # fp32: e^500 would be infinite
    reference = torch.zeros(1, 1, requires_grad=True)
    value = kl_k3_straight_through(policy_logprobs=policy, reference_logprobs=reference)
    assert value.isfinite().all()
    gradients = torch.autograd.grad(value.sum(), [policy, reference], allow_unused=True)
    assert gradients[0].item() == pull
    assert gradients[1] is None


@pytest.mark.parametrize(
    ("kl", "factor"), [(12.0, 1.00512), (60.0, 1.00512), (3.0, 0.99488), (6.6, 1.00256), (6.0, 1)]
)
def test_adapted_kl_coef_meets_published_vectors(kl: float, factor: float) -> None:
    got = adapted_kl_coef(kl_coef=0.15, kl=kl, target=6.0, replies=256, horizon=10_000)
    assert got == pytest.approx(0.15 * factor, abs=1e-12)


@given(st.floats(-1e3, 1e6), st.integers(1, 512))
def test_adapted_kl_coef_moves_against_the_error_by_a_bounded_step(kl: float, replies: int) -> None:
    got = adapted_kl_coef(kl_coef=1.0, kl=kl, target=6.0, replies=replies, horizon=1000)
    assert (got - 1) * (kl - 6) >= 0
    assert abs(got - 1) <= 0.2 * replies / 1000 + 1e-12


def test_a_batch_larger_than_the_horizon_does_not_turn_the_price_round() -> None:
    got = adapted_kl_coef(kl_coef=0.1, kl=0.0, target=6.0, replies=5000, horizon=20)
    assert got == pytest.approx(0.08)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kl": math.nan},
        {"kl": math.inf},
        {"kl_coef": 0.0},
        {"target": 0.0},
        {"replies": 0},
        {"horizon": 0},
    ],
)
def test_adapted_kl_coef_refuses_what_it_cannot_use(wrong: dict[str, float]) -> None:
    usual = {"kl_coef": 0.1, "kl": 6.0, "target": 6.0, "replies": 8, "horizon": 10_000}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adapted_kl_coef(**{**usual, **wrong})  # type: ignore[arg-type]  # a table of arguments
