import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import logistic_loss
from preftune.losses.reference_free import cpo_logit, orpo_log_odds, simpo_logit, slic_loss

averages = st.floats(-50.0, -1e-3)
counts = st.integers(1, 2000)


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOGPS = {"chosen_logps": number(-10.0), "rejected_logps": number(-14.0)}
LENGTHS = {"chosen_lengths": number(5.0), "rejected_lengths": number(8.0)}


@pytest.mark.parametrize(
    ("beta", "gamma", "value"),
    [(2.0, 0.5, 1.313262), (2.5, 1.5, 2.237822), (2.0, 2.0 * 0.5, 1.701413)],
    ids=["small", "large", "gamma as a ratio"],
)
def test_simpo_meets_published_values(beta: float, gamma: float, value: float) -> None:
    logit = simpo_logit(**LOGPS, **LENGTHS, beta=beta, gamma=gamma)
    assert logistic_loss(logit).item() == pytest.approx(value, abs=5.1e-7)


def test_cpo_meets_published_values() -> None:
    preference = logistic_loss(cpo_logit(**LOGPS, beta=0.1)).item()
    token_mean_nll = 10 / 5
    assert preference == pytest.approx(0.513015, abs=5.1e-7)
    assert preference + 1.0 * token_mean_nll == pytest.approx(2.513015, abs=5.1e-7)


def test_orpo_meets_published_values() -> None:
    log_odds = orpo_log_odds(**LOGPS, **LENGTHS)
    preference = logistic_loss(log_odds).item()
    token_mean_nll = 10 / 5
    assert log_odds.item() == pytest.approx(-0.295473, abs=5.1e-7)
    assert preference == pytest.approx(0.851757, abs=5.1e-7)
    assert token_mean_nll + 0.1 * preference == pytest.approx(2.085176, abs=5.1e-7)
    assert token_mean_nll + 0.25 * preference == pytest.approx(2.212939, abs=5.1e-7)


def test_gradients_of_reference_free_logits_are_those_found_on_paper() -> None:
    chosen, rejected = number(-10.0).requires_grad_(), number(-14.0).requires_grad_()
    logps = {"chosen_logps": chosen, "rejected_logps": rejected}
    simpo = simpo_logit(**logps, **LENGTHS, beta=2.0, gamma=0.5)
    cpo = cpo_logit(**logps, beta=0.1)
    orpo = orpo_log_odds(**logps, **LENGTHS)
    found = [
        [g.item() for g in torch.autograd.grad(logit.sum(), [chosen, rejected])]
        for logit in (simpo, cpo, orpo)
    ]
    assert found[0] == pytest.approx([2 / 5, -2 / 8])  # beta / n
    assert found[1] == pytest.approx([0.1, -0.1])
    # d log odds / d average = 1 / (1 - p), p = e^-2 and e^-1.75
    expected = [1 / (1 - math.exp(-2)) / 5, -1 / (1 - math.exp(-1.75)) / 8]
    assert found[2] == pytest.approx(expected)


@given(averages, averages, counts, counts)
def test_orpo_log_odds_are_those_of_the_mean_token(w: float, z: float, n: int, k: int) -> None:
    got = orpo_log_odds(
        chosen_logps=number(w * n),
        rejected_logps=number(z * k),
        chosen_lengths=number(float(n)),
        rejected_lengths=number(float(k)),
    )

    def odds(average: float) -> float:
        return math.exp(average) / -math.expm1(average)

    assert got.item() == pytest.approx(math.log(odds(w) / odds(z)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("logps", [0.0, -1e-12, -1e-7, -1e-3, -0.6931, -0.6932, -1e4])
def test_orpo_is_finite_with_finite_gradients_from_certain_to_impossible(
    logps: float, dtype: torch.dtype
) -> None:
    chosen = torch.tensor([logps], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([-3.0], dtype=dtype, requires_grad=True)
    one = torch.ones(1, dtype=dtype)
    log_odds = orpo_log_odds(
        chosen_logps=chosen, rejected_logps=rejected, chosen_lengths=one, rejected_lengths=one
    )
    gradients = torch.autograd.grad(logistic_loss(log_odds).sum(), [chosen, rejected])
    assert log_odds.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_orpo_holds_a_certain_response_at_its_limit() -> None:
    one = number(1.0)
    log_odds = orpo_log_odds(
        chosen_logps=number(0.0),
        rejected_logps=number(-math.log(2)),  # even odds
        chosen_lengths=one,
        rejected_lengths=one,
    )
    # log(p / (1 - p)) = -log(1 / p - 1) with 1 / p = e^1e-7
    assert log_odds.item() == pytest.approx(-math.log(math.expm1(1e-7)), abs=1e-12)


@pytest.mark.parametrize(
    ("delta", "value"), [(1.0, 0.0), (4.0, 0.0), (5.0, 1.0)], ids=["past", "there", "short"]
)
def test_slic_asks_for_a_gap_of_delta_nats(delta: float, value: float) -> None:
    assert slic_loss(**LOGPS, delta=delta).item() == value  # the gap is 4


def test_slic_of_a_pair_the_wrong_way_round_meets_hand_calculation() -> None:
    chosen, rejected = number(-7.0).requires_grad_(), number(-5.0).requires_grad_()
    loss = slic_loss(chosen_logps=chosen, rejected_logps=rejected, delta=1.0)
    gradients = torch.autograd.grad(loss.sum(), [chosen, rejected])
    assert loss.item() == 3.0
    assert [g.item() for g in gradients] == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("beta", "gamma", "named"), [(0.0, 0.5, "beta"), (2.0, -0.1, "gamma"), (2.0, math.nan, "gamma")]
)
def test_simpo_refuses_settings_outside_their_range(beta: float, gamma: float, named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} is"):
        simpo_logit(**LOGPS, **LENGTHS, beta=beta, gamma=gamma)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_cpo_refuses_a_bad_beta(beta: float) -> None:
    with pytest.raises(ValueError, match="beta is"):
        cpo_logit(**LOGPS, beta=beta)


@pytest.mark.parametrize("delta", [-1.0, math.nan, math.inf])
def test_slic_refuses_a_bad_delta(delta: float) -> None:
    with pytest.raises(ValueError, match="delta is"):
        slic_loss(**LOGPS, delta=delta)
