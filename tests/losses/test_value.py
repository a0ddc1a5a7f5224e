import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.value import explained_variance, value_loss


def tokens(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def loss(value: float, old: float, target: float, clip_eps: float = 0.2) -> tuple[float, float]:
    """Return the loss of one token and its slope in the value."""
    values = tokens(value).requires_grad_()
    got = value_loss(
        values=values, old_values=tokens(old), returns=tokens(target), clip_eps=clip_eps
    )
    (slope,) = torch.autograd.grad(got.sum(), [values])
    return got.item(), slope.item()


@pytest.mark.parametrize(
    ("target", "clip_eps", "expected", "slope"),
    [
        (0.2, 0.2, 0.32, 0.8),  # moved past its clip and away from the return: pulled back
        (2.0, 0.2, 0.845, 0.0),  # moved past its clip towards the return: left alone
        (2.0, math.inf, 0.5, -1.0),
    ],
)
def test_value_loss_meets_published_vectors(
    target: float, clip_eps: float, expected: float, slope: float
) -> None:
    assert loss(1.0, 0.5, target, clip_eps) == pytest.approx((expected, slope))


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 5))
def test_value_loss_at_the_old_value_is_half_the_squared_error(
    value: float, target: float, clip_eps: float
) -> None:
    assert loss(value, value, target, clip_eps) == pytest.approx(
        (0.5 * (value - target) ** 2, value - target)
    )


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10), st.floats(0.01, 5))
def test_value_loss_is_never_below_the_plain_one(
    value: float, old: float, target: float, clip_eps: float
) -> None:
    assert loss(value, old, target, clip_eps)[0] >= 0.5 * (value - target) ** 2


@pytest.mark.parametrize("clip_eps", [0.0, -0.2, math.nan])
def test_clip_outside_its_range_is_refused(clip_eps: float) -> None:
    with pytest.raises(ValueError, match="clip_eps"):
        loss(1.0, 0.5, 0.2, clip_eps)


def explained(values: list[float], returns: list[float], mask: list[int]) -> float:
    return explained_variance(
        values=tokens(*values), returns=tokens(*returns), mask=tokens(*mask).bool()
    ).item()


def test_explained_variance_meets_published_vector() -> None:
    assert explained([0.5, 0.2, 1.5], [1, 0, 2], [1, 1, 1]) == pytest.approx(0.836667, abs=1e-6)


def test_explained_variance_reads_own_tokens_only() -> None:
    got = explained([0.5, math.nan, 0.2, 1.5], [1, math.inf, 0, 2], [1, 0, 1, 1])
    assert got == pytest.approx(0.836667, abs=1e-6)


def test_explained_variance_has_its_known_values() -> None:
    returns = [1.0, 0.0, 2.0]
    assert explained(returns, returns, [1] * 3) == 1.0
    assert explained([5.0] * 3, returns, [1] * 3) == 0.0
    assert explained([-1.0, 0.0, -2.0], returns, [1] * 3) == pytest.approx(-3.0)


def test_explained_variance_of_equal_returns_is_not_a_number() -> None:
    assert math.isnan(explained([1.0, 2.0], [3.0, 3.0], [1, 1]))
    assert math.isnan(explained([1.0, 2.0], [3.0, 4.0], [0, 1]))


def test_explained_variance_carries_no_gradient() -> None:
    values = tokens(1.0, 2.0).requires_grad_()
    got = explained_variance(
        values=values, returns=tokens(0.0, 1.0), mask=torch.ones(1, 2, dtype=torch.bool)
    )
    assert not got.requires_grad
