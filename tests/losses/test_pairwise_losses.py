import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.pairwise import (
    bradley_terry_loss,
    centring_penalty,
    davidson_loss,
    initial_nu,
    initial_theta,
    rao_kupper_loss,
    soft_bradley_terry_loss,
)

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


def davidson(chosen: Tensor, rejected: Tensor, *, tied: bool, nu: float) -> Tensor:
    return davidson_loss(
        chosen_rewards=chosen,
        rejected_rewards=rejected,
        tied=torch.full(chosen.shape, tied),
        nu=torch.tensor(nu, dtype=torch.float64),
    )


def rao_kupper(chosen: Tensor, rejected: Tensor, *, tied: bool, theta: float) -> Tensor:
    return rao_kupper_loss(
        chosen_rewards=chosen,
        rejected_rewards=rejected,
        tied=torch.full(chosen.shape, tied),
        theta=torch.tensor(theta, dtype=torch.float64),
    )


def davidson_1(chosen: Tensor, rejected: Tensor, *, tied: bool) -> Tensor:
    return davidson(chosen, rejected, tied=tied, nu=1.0)


def rao_kupper_2(chosen: Tensor, rejected: Tensor, *, tied: bool) -> Tensor:
    return rao_kupper(chosen, rejected, tied=tied, theta=2.0)


TieLoss = Callable[..., Tensor]
TIE_LOSSES = pytest.mark.parametrize(
    "loss", [davidson_1, rao_kupper_2], ids=["davidson", "rao_kupper"]
)


@pytest.mark.parametrize(
    ("loss", "published"),
    [
        (davidson_1, [0.789036, 1.139036, 1.489036]),
        (rao_kupper_2, [0.689727, 1.206038, 1.614924]),
    ],
    ids=["davidson", "rao_kupper"],
)
def test_tie_losses_meet_published_vectors(loss: TieLoss, published: list[float]) -> None:
    high, low = number(1.2), number(0.5)
    win = loss(high, low, tied=False).item()
    tie = loss(high, low, tied=True).item()
    lose = loss(low, high, tied=False).item()
    assert [win, tie, lose] == pytest.approx(published, abs=1e-6)


@TIE_LOSSES
@given(a=scores, b=scores)
def test_win_tie_and_loss_sum_to_one(loss: TieLoss, a: float, b: float) -> None:
    high, low = number(a), number(b)
    losses = [
        loss(high, low, tied=False),
        loss(high, low, tied=True),
        loss(low, high, tied=False),
    ]
    assert sum(math.exp(-value.item()) for value in losses) == pytest.approx(1.0)


@TIE_LOSSES
@given(a=scores, b=scores)
def test_a_tie_has_no_side(loss: TieLoss, a: float, b: float) -> None:
    one = loss(number(a), number(b), tied=True).item()
    assert one == pytest.approx(loss(number(b), number(a), tied=True).item())
    assert one >= loss(number(a), number(a), tied=True).item() - 1e-9  # likeliest at equal scores


@given(scores, scores)
def test_without_ties_both_tie_models_are_bradley_terry(a: float, b: float) -> None:
    chosen, rejected = number(a), number(b)
    plain = bradley_terry_loss(chosen_rewards=chosen, rejected_rewards=rejected).item()
    none = davidson(chosen, rejected, tied=False, nu=0.0).item()
    assert none == pytest.approx(plain, abs=1e-9)
    assert rao_kupper(chosen, rejected, tied=False, theta=1.0).item() == pytest.approx(plain)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.6])
def test_initial_tie_parameters_give_that_share_at_equal_scores(share: float) -> None:
    equal = number(0.3)
    nu, theta = initial_nu(share), initial_theta(share)
    by_davidson = davidson(equal, equal, tied=True, nu=nu).neg().exp().item()
    by_rao_kupper = rao_kupper(equal, equal, tied=True, theta=theta).neg().exp().item()
    assert [by_davidson, by_rao_kupper] == pytest.approx([share, share])


def test_initial_tie_parameters_meet_published_vectors() -> None:
    assert initial_nu(0.2) == pytest.approx(0.5)
    assert initial_theta(0.2) == pytest.approx(1.5)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_of_ties_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="tie_share"):
        initial_nu(share)
    with pytest.raises(ValueError, match="tie_share"):
        initial_theta(share)


def test_tie_gradients_at_equal_scores_match_hand_calculation() -> None:
    # Davidson, nu 1: P(tie) = 1/3. A win: d loss / d chosen = P(loss) + P(tie) / 2 - 1 + 1/2 = -1/2
    # and d loss / d nu = 1/Z = 1/3; a tie: 0 and 1/3 - 1/nu = -2/3
    chosen = number(0.0, 0.0).requires_grad_()
    nu = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = davidson_loss(
        chosen_rewards=chosen,
        rejected_rewards=number(0.0, 0.0),
        tied=torch.tensor([False, True]),
        nu=nu,
    )
    by_score, by_nu = torch.autograd.grad(loss.sum(), [chosen, nu])
    assert by_score.tolist() == pytest.approx([-0.5, 0.0])
    assert by_nu.item() == pytest.approx(1 / 3 - 2 / 3)


def test_rao_kupper_gradient_at_equal_scores_matches_hand_calculation() -> None:
    # theta 2: P(win) = s(-ln 2) = 1/3, so d loss / d chosen = 1/3 - 1 = -2/3 and
    # d loss / d theta = (1 - 1/3) / 2 = 1/3; a tie: 0 and 2 * 1/3 - 2 theta / (theta^2 - 1) = -2/3
    chosen = number(0.0, 0.0).requires_grad_()
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = rao_kupper_loss(
        chosen_rewards=chosen,
        rejected_rewards=number(0.0, 0.0),
        tied=torch.tensor([False, True]),
        theta=theta,
    )
    by_score, by_theta = torch.autograd.grad(loss.sum(), [chosen, theta])
    assert by_score.tolist() == pytest.approx([-2 / 3, 0.0])
    assert by_theta.item() == pytest.approx(1 / 3 - 2 / 3)


@TIE_LOSSES
@pytest.mark.parametrize("tied", [False, True], ids=["decided", "tied"])
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_tie_losses_are_finite_at_extremes(loss: TieLoss, tied: bool, gap: float) -> None:
    chosen = number(gap).requires_grad_()
    value = loss(chosen, number(0.0), tied=tied)
    (gradient,) = torch.autograd.grad(value.sum(), [chosen])
    assert math.isfinite(value.item())
    assert abs(gradient.item()) <= 1.0


def test_tie_parameters_outside_their_range_are_refused() -> None:
    one = number(1.0)
    for nu in (-0.1, math.nan):
        with pytest.raises(ValueError, match="nu is"):
            davidson(one, one, tied=False, nu=nu)
    for theta in (0.9, math.nan):
        with pytest.raises(ValueError, match="theta is"):
            rao_kupper(one, one, tied=False, theta=theta)


def test_tie_parameter_learnt_from_data_gives_its_share_of_ties() -> None:
    # 30 ties among 100 comparisons of equal scores: the optimum is nu = 2 * .3 / .7
    raw = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=50, line_search_fn="strong_wolfe")
    equal, tied = torch.zeros(100, dtype=torch.float64), torch.arange(100) < 30

    def closure() -> Tensor:
        optimizer.zero_grad()
        nu = torch.nn.functional.softplus(raw)
        loss = davidson_loss(chosen_rewards=equal, rejected_rewards=equal, tied=tied, nu=nu).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    learnt = torch.nn.functional.softplus(raw).item()
    assert learnt == pytest.approx(initial_nu(0.3), abs=1e-5)
