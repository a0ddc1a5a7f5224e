import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.divergence import alpha_score, forward_kl_score, js_score

Score = Callable[[Tensor], Tensor]


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def alpha(value: float) -> Score:
    return lambda logratio: alpha_score(logratio, alpha=value)


SCORES: dict[str, Score] = {
    "forward_kl": forward_kl_score,
    "js": js_score,
    "alpha .5": alpha(0.5),
    "alpha .25": alpha(0.25),
}


def value_and_gradients(score: Score, c: float, r: float, beta: float) -> list[float]:
    """The loss of one pair, then d loss / d chosen_logratio and d loss / d rejected_logratio."""
    chosen, rejected = number(c).requires_grad_(), number(r).requires_grad_()
    logit = dpo_logit(chosen_logratio=score(chosen), rejected_logratio=score(rejected), beta=beta)
    value = logistic_loss(logit)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected])
    return [value.item(), *(gradient.item() for gradient in gradients)]


@pytest.mark.parametrize(
    ("name", "at_a", "at_b"),
    [
        ("forward_kl", [0.572316, -0.005898, 0.118458], [2.072156, -1.958691, 0.265080]),
        ("js", [0.635589, -0.005607, 0.034387], [1.046334, -0.265212, 0.122470]),
        ("alpha .5", [0.573243, -0.016051, 0.071935], [1.571149, -0.838537, 0.308481]),
        ("alpha .25", [0.574839, -0.009755, 0.092556], [1.779979, -1.280382, 0.285692]),
    ],
    ids=["forward_kl", "js", "alpha .5", "alpha .25"],
)
def test_f_dpo_meets_published_values_and_gradients(
    name: str, at_a: list[float], at_b: list[float]
) -> None:
    score = SCORES[name]
    assert value_and_gradients(score, 2.0, -1.0, beta=0.1) == pytest.approx(at_a, abs=5.1e-7)
    assert value_and_gradients(score, -1.5, 0.5, beta=0.5) == pytest.approx(at_b, abs=5.1e-7)


@pytest.mark.parametrize(
    ("name", "slope"), [("forward_kl", 1.0), ("js", 0.5), ("alpha .5", 1.0), ("alpha .25", 1.0)]
)
def test_score_is_zero_with_its_slope_when_policy_equals_reference(name: str, slope: float) -> None:
    logratio = number(0.0).requires_grad_()
    score = SCORES[name](logratio)
    (gradient,) = torch.autograd.grad(score.sum(), [logratio])
    assert score.item() == pytest.approx(0.0, abs=1e-15)
    assert gradient.item() == pytest.approx(slope)
    assert value_and_gradients(SCORES[name], 0.0, 0.0, beta=0.3)[0] == pytest.approx(math.log(2))


@given(st.floats(-30.0, 30.0))
def test_alpha_score_joins_forward_kl_and_the_log_ratio(x: float) -> None:
    forward = alpha_score(number(x), alpha=0.0).item()
    near_one = alpha_score(number(x), alpha=1 - 1e-9).item()
    assert forward == pytest.approx(1 - math.exp(-x), rel=1e-12, abs=1e-12)
    assert near_one == pytest.approx(x, rel=1e-6, abs=1e-9)


@given(st.floats(-700.0, 700.0))
def test_js_score_is_its_closed_form(x: float) -> None:
    # f'(t) = log(2 t / (t + 1)) with t = e^x
    expected = math.log(2) - max(0.0, -x) - math.log1p(math.exp(-abs(x)))
    assert js_score(number(x)).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", list(SCORES))
def test_score_rises_with_the_log_ratio(name: str) -> None:
    scores = SCORES[name](torch.linspace(-20, 20, 81, dtype=torch.float64))
    assert (scores.diff() > 0).all()


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(torch.float64, 80.0), (torch.float32, 80.0), (torch.bfloat16, 80.0), (torch.float16, 11.0)],
    ids=["float64", "float32", "bfloat16", "float16"],
)
def test_exponent_is_held_where_numbers_end(dtype: torch.dtype, exponent: float) -> None:
    far, edge = forward_kl_score(torch.tensor([-1e4, -exponent], dtype=dtype)).tolist()
    assert math.isfinite(far)
    assert far == edge
    assert far == pytest.approx(-math.exp(exponent), rel=1e-2)


@pytest.mark.parametrize("bad", [1.0, 1.5, math.nan, -math.inf])
def test_alpha_of_one_or_more_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        alpha_score(number(0.0), alpha=bad)
