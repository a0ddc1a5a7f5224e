import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.listwise import (
    all_pairs_loss,
    best_of_k_loss,
    pl_dpo_loss,
    plackett_luce_loss,
)
from preftune.losses.pairwise import bradley_terry_loss

Loss = Callable[..., Tensor]
PUBLISHED = [1.2, 0.5, -0.3]
scores_of_four = st.lists(st.floats(-50.0, 50.0), min_size=4, max_size=4)
LOSSES = pytest.mark.parametrize(
    "loss", [plackett_luce_loss, all_pairs_loss], ids=["plackett_luce", "all_pairs"]
)


def table(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def ranked(scores: Tensor) -> dict[str, Tensor]:
    """The scores as full lists, best first."""
    order = torch.arange(1, scores.shape[-1] + 1).expand_as(scores)
    return {"scores": scores, "ranks": order, "mask": torch.ones_like(scores, dtype=torch.bool)}


def best_first(scores: Tensor) -> Tensor:
    return best_of_k_loss(
        scores=scores,
        best=torch.zeros(len(scores), dtype=torch.long),
        mask=torch.ones_like(scores, dtype=torch.bool),
    )


def test_listwise_losses_meet_published_vectors() -> None:
    scores = table(PUBLISHED)
    assert plackett_luce_loss(**ranked(scores)).item() == pytest.approx(0.913260, abs=1e-6)
    assert all_pairs_loss(**ranked(scores)).item() == pytest.approx(0.325233, abs=1e-6)
    assert best_first(scores).item() == pytest.approx(0.542159, abs=1e-6)


def test_pl_dpo_meets_published_vectors() -> None:
    lists = ranked(table([2.0, 0.5, -1.0], [0.0, 0.0, 0.0]))
    loss = pl_dpo_loss(logratio=lists["scores"], ranks=lists["ranks"], mask=lists["mask"], beta=0.1)
    assert loss.tolist() == pytest.approx([1.577055, math.log(6)], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_equal_scores_give_the_log_of_the_number_of_choices(size: int) -> None:
    lists = ranked(table([7.0] * size))
    assert plackett_luce_loss(**lists).item() == pytest.approx(math.log(math.factorial(size)))
    assert best_first(lists["scores"]).item() == pytest.approx(math.log(size))
    assert all_pairs_loss(**lists).item() == pytest.approx(math.log(2))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_two_candidates_are_bradley_terry(a: float, b: float) -> None:
    lists = ranked(table([a, b]))
    pair = bradley_terry_loss(
        chosen_rewards=lists["scores"][:, 0], rejected_rewards=lists["scores"][:, 1]
    ).item()
    assert plackett_luce_loss(**lists).item() == pytest.approx(pair, abs=1e-9)
    assert all_pairs_loss(**lists).item() == pytest.approx(pair, abs=1e-9)
    assert best_first(lists["scores"]).item() == pytest.approx(pair, abs=1e-9)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0.01, 2.0))
def test_pl_dpo_of_two_candidates_is_dpo(c: float, r: float, beta: float) -> None:
    h = table([c, r])
    lists = ranked(h)
    got = pl_dpo_loss(logratio=h, ranks=lists["ranks"], mask=lists["mask"], beta=beta)
    dpo = logistic_loss(dpo_logit(chosen_logratio=h[:, 0], rejected_logratio=h[:, 1], beta=beta))
    assert got.item() == pytest.approx(dpo.item(), abs=1e-9)


@given(scores_of_four)
def test_probabilities_of_all_orders_sum_to_one(scores: list[float]) -> None:
    orders = ranked(table(*[list(order) for order in permutations(scores)]))
    assert plackett_luce_loss(**orders).neg().exp().sum().item() == pytest.approx(1.0)


@given(scores_of_four)
def test_probabilities_of_each_best_sum_to_one(scores: list[float]) -> None:
    rows = table(*[scores] * 4)
    losses = best_of_k_loss(
        scores=rows, best=torch.arange(4), mask=torch.ones_like(rows, dtype=torch.bool)
    )
    assert losses.neg().exp().sum().item() == pytest.approx(1.0)


@LOSSES
@given(scores=scores_of_four, order=st.permutations(range(4)), shift=st.floats(-50.0, 50.0))
def test_columns_and_a_common_shift_change_nothing(
    loss: Loss, scores: list[float], order: list[int], shift: float
) -> None:
    lists = ranked(table(scores))
    moved = {name: tensor[:, order] for name, tensor in lists.items()}
    moved["scores"] = moved["scores"] + shift
    assert loss(**moved).item() == pytest.approx(loss(**lists).item(), abs=1e-9)


@LOSSES
def test_padding_of_short_lists_is_never_read(loss: Loss) -> None:
    short, long = ranked(table(PUBLISHED)), ranked(table([0.3, 0.1, -2.0, 1.0]))
    padded = {
        "scores": torch.cat([table([math.nan, *PUBLISHED]), long["scores"]]).requires_grad_(),
        "ranks": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]),
        "mask": torch.tensor([[False, True, True, True], [True] * 4]),
    }
    together = loss(**padded)
    assert together.tolist() == pytest.approx([loss(**short).item(), loss(**long).item()])
    (gradient,) = torch.autograd.grad(together.sum(), [padded["scores"]])
    assert gradient.isfinite().all()
    assert gradient[0, 0].item() == 0.0


def test_padding_is_never_the_best() -> None:
    scores = table([math.nan, 1.0, 1.0])
    mask = torch.tensor([[False, True, True]])
    value = best_of_k_loss(scores=scores, best=torch.tensor([1]), mask=mask)
    assert value.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="real candidate"):
        best_of_k_loss(scores=scores, best=torch.tensor([0]), mask=mask)


def test_tied_candidates_are_compared_with_those_below_only() -> None:
    # first and second tie above the third: log(1 + e^-1.5) = .201413, log(1 + e^-.8) = .371101
    lists = {**ranked(table(PUBLISHED)), "ranks": torch.tensor([[1, 1, 2]])}
    assert plackett_luce_loss(**lists).item() == pytest.approx(0.572514, abs=1e-6)
    assert all_pairs_loss(**lists).item() == pytest.approx(0.572514 / 2, abs=1e-6)


def test_a_tie_for_the_last_place_adds_nothing() -> None:
    # the first is picked out of three: the loss of the best of K
    lists = {**ranked(table(PUBLISHED)), "ranks": torch.tensor([[1, 2, 2]])}
    assert plackett_luce_loss(**lists).item() == pytest.approx(0.542159, abs=1e-6)
    assert all_pairs_loss(**lists).item() == pytest.approx((0.403186 + 0.201413) / 2, abs=1e-6)


@LOSSES
def test_a_list_that_orders_nothing_is_refused(loss: Loss) -> None:
    lists = ranked(table([1.0, 2.0], [1.0, 2.0]))
    lists["ranks"] = torch.tensor([[1, 2], [1, 1]])
    with pytest.raises(ValueError, match="list 1"):
        loss(**lists)
    lists["ranks"], lists["mask"][1, 1] = torch.tensor([[1, 2], [1, 2]]), False
    with pytest.raises(ValueError, match="list 1"):
        loss(**lists)


def test_gradients_at_equal_scores_match_hand_calculation() -> None:
    scores = table([0.0, 0.0, 0.0]).requires_grad_()
    lists = ranked(scores)
    gradients = [
        torch.autograd.grad(loss.sum(), [scores])[0][0].tolist()
        for loss in (plackett_luce_loss(**lists), all_pairs_loss(**lists), best_first(scores))
    ]
    # softmax of each stage minus its pick: (1/3 - 1, 1/3 + 1/2 - 1, 1/3 + 1/2 + 1 - 1)
    assert gradients[0] == pytest.approx([-2 / 3, -1 / 6, 5 / 6])
    # each of the 3 pairs: -+ 1/2, averaged; the middle one wins one and loses one
    assert gradients[1] == pytest.approx([-1 / 3, 0.0, 1 / 3])
    assert gradients[2] == pytest.approx([-2 / 3, 1 / 3, 1 / 3])


@LOSSES
@pytest.mark.parametrize("signs", [(1, 0, -1), (-1, 0, 1), (1, 1, -1)])
def test_listwise_losses_are_finite_at_extremes(loss: Loss, signs: tuple[int, ...]) -> None:
    scores = (1e4 * table([float(sign) for sign in signs])).requires_grad_()
    value = loss(**ranked(scores))
    (gradient,) = torch.autograd.grad(value.sum(), [scores])
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_pl_dpo_refuses_a_beta_that_teaches_nothing(beta: float) -> None:
    lists = ranked(table([1.0, 2.0]))
    with pytest.raises(ValueError, match="beta"):
        pl_dpo_loss(logratio=lists["scores"], ranks=lists["ranks"], mask=lists["mask"], beta=beta)
