"""What holds for every pair loss: special cases, swaps, orders, and numbers at the extremes."""

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
from preftune.losses.direct import (
    dpo_logit,
    dpo_loss,
    dpop_logit,
    flip_corrected_loss,
    hinge_loss,
    logistic_loss,
    offset_loss,
    smoothed_loss,
)
from preftune.losses.divergence import alpha_score, forward_kl_score, js_score
from preftune.losses.length import ipo_loss, ipo_sum_loss, length_normalised_logit, r_dpo_logit
from preftune.losses.reference_free import cpo_logit, orpo_log_odds, simpo_logit, slic_loss

PairLoss = Callable[[Tensor, Tensor], Tensor]
BETA = 0.1


def lengths(like: Tensor, chosen: float = 5.0, rejected: float = 8.0) -> dict[str, Tensor]:
    return {
        "chosen_lengths": torch.full_like(like, chosen),
        "rejected_lengths": torch.full_like(like, rejected),
    }


def dpo(c: Tensor, r: Tensor) -> Tensor:
    return dpo_logit(chosen_logratio=c, rejected_logratio=r, beta=BETA)


def of(loss: Callable[..., Tensor], **settings: float) -> PairLoss:
    return lambda c, r: loss(chosen_logratio=c, rejected_logratio=r, beta=BETA, **settings)


def sized(logit: Callable[..., Tensor], **settings: float) -> PairLoss:
    return lambda c, r: logistic_loss(
        logit(chosen_logratio=c, rejected_logratio=r, **lengths(c), beta=BETA, **settings)
    )


def free(logit: Callable[..., Tensor], **settings: float) -> PairLoss:
    return lambda c, r: logistic_loss(logit(chosen_logps=c, rejected_logps=r, **settings))


# Losses that fall with the chosen and rise with the rejected response, wherever they stand.
MONOTONE: dict[str, PairLoss] = {
    "sigmoid": lambda c, r: logistic_loss(dpo(c, r)),
    "offset": lambda c, r: offset_loss(dpo(c, r), offset=torch.full_like(c, 0.2)),
    "hinge": lambda c, r: hinge_loss(dpo(c, r)),
    "dpop": lambda c, r: logistic_loss(
        dpop_logit(chosen_logratio=c, rejected_logratio=r, beta=BETA, penalty=50.0)
    ),
    "sigmoid_norm": sized(length_normalised_logit),
    "r_dpo": sized(r_dpo_logit, alpha=0.05),
    "bco": of(bco_pair_loss, delta=0.1),
    "apo_zero": of(apo_zero_loss),
    "forward_kl": lambda c, r: logistic_loss(dpo(forward_kl_score(c), forward_kl_score(r))),
    "js": lambda c, r: logistic_loss(dpo(js_score(c), js_score(r))),
    "alpha": lambda c, r: logistic_loss(dpo(alpha_score(c, alpha=0.5), alpha_score(r, alpha=0.5))),
    "simpo": lambda c, r: logistic_loss(
        simpo_logit(chosen_logps=c, rejected_logps=r, **lengths(c), beta=2.0, gamma=0.5)
    ),
    "cpo": free(cpo_logit, beta=BETA),
    "orpo": lambda c, r: logistic_loss(
        orpo_log_odds(chosen_logps=c, rejected_logps=r, **lengths(c))
    ),
    "slic": lambda c, r: slic_loss(chosen_logps=c, rejected_logps=r, delta=1.0),
}
# Losses with an optimum somewhere, or that lower both responses.
OTHERS: dict[str, PairLoss] = {
    "cdpo": lambda c, r: smoothed_loss(dpo(c, r), flip_rate=0.1),
    "robust": lambda c, r: flip_corrected_loss(dpo(c, r), flip_rate=0.1),
    "ipo": lambda c, r: ipo_loss(chosen_logratio=c, rejected_logratio=r, **lengths(c), tau=0.1),
    "ipo_sum": lambda c, r: ipo_sum_loss(chosen_logratio=c, rejected_logratio=r, tau=0.1),
    "exo": of(exo_loss, flip_rate=1e-3),
    "nca": of(nca_loss),
    "sppo_hard": of(sppo_hard_loss),
    "apo_down": of(apo_down_loss),
    "discopop": of(discopop_loss, tau=0.05),
}
EVERY = MONOTONE | OTHERS
every_loss = pytest.mark.parametrize("name", list(EVERY))


def on_grid(name: str, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every pair of points, with both gradients."""
    grid = torch.cartesian_prod(points, points)
    chosen, rejected = grid[:, 0].clone().requires_grad_(), grid[:, 1].clone().requires_grad_()
    value = EVERY[name](chosen, rejected)
    by_chosen, by_rejected = torch.autograd.grad(value.sum(), [chosen, rejected])
    return value, by_chosen, by_rejected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every_loss
def test_pair_loss_is_finite_with_finite_gradients_at_extremes(
    name: str, dtype: torch.dtype
) -> None:
    points = [-1e4, -2e3, -300.0, -50.0, -1.0, 0.0, 1e-6, 1.0, 50.0, 300.0, 2e3, 1e4]
    assert all(found.isfinite().all() for found in on_grid(name, torch.tensor(points, dtype=dtype)))


@pytest.mark.parametrize("name", list(MONOTONE))
def test_monotone_loss_never_lowers_chosen_or_raises_rejected(name: str) -> None:
    _, by_chosen, by_rejected = on_grid(name, torch.linspace(-200, 200, 161, dtype=torch.float64))
    assert (by_chosen <= 0).all()
    assert (by_rejected >= 0).all()


@every_loss
def test_pair_loss_gives_one_number_per_pair_whatever_the_order(name: str) -> None:
    c = torch.tensor([2.0, -1.5, 0.0, -30.0], dtype=torch.float64)
    r = torch.tensor([-1.0, 0.5, 0.0, -40.0], dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    together = EVERY[name](c, r)
    one_by_one = torch.cat([EVERY[name](c[i : i + 1], r[i : i + 1]) for i in range(4)])
    assert together.shape == (4,)
    assert together.tolist() == pytest.approx(one_by_one.tolist(), rel=1e-12)
    assert EVERY[name](c[order], r[order]).tolist() == pytest.approx(together[order].tolist())


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_norm", "forward_kl", "js", "alpha", "cpo"])
@given(c=st.floats(-30.0, 30.0), r=st.floats(-30.0, 30.0))
def test_swapped_pair_has_the_other_probability(name: str, c: float, r: float) -> None:
    # a swap also swaps the lengths; equal lengths keep it simple
    chosen, rejected = torch.tensor([c]).double(), torch.tensor([r]).double()
    if name == "sigmoid_norm":
        win, lose = (
            logistic_loss(
                length_normalised_logit(
                    chosen_logratio=a, rejected_logratio=b, **lengths(a, 7.0, 7.0), beta=BETA
                )
            )
            for a, b in ((chosen, rejected), (rejected, chosen))
        )
    else:
        win, lose = EVERY[name](chosen, rejected), EVERY[name](rejected, chosen)
    assert math.exp(-win.item()) + math.exp(-lose.item()) == pytest.approx(1.0)


SPECIAL_CASES: dict[str, PairLoss] = {
    "cdpo eps 0": lambda c, r: smoothed_loss(dpo(c, r), flip_rate=0.0),
    "robust eps 0": lambda c, r: flip_corrected_loss(dpo(c, r), flip_rate=0.0),
    "offset 0": lambda c, r: offset_loss(dpo(c, r), offset=torch.zeros_like(c)),
    "r_dpo alpha 0": sized(r_dpo_logit, alpha=0.0),
    "r_dpo equal lengths": lambda c, r: logistic_loss(
        r_dpo_logit(
            chosen_logratio=c, rejected_logratio=r, **lengths(c, 9.0, 9.0), beta=BETA, alpha=0.5
        )
    ),
    "dpop lambda 0": lambda c, r: logistic_loss(
        dpop_logit(chosen_logratio=c, rejected_logratio=r, beta=BETA, penalty=0.0)
    ),
    "sigmoid_norm length 1": lambda c, r: logistic_loss(
        length_normalised_logit(
            chosen_logratio=c, rejected_logratio=r, **lengths(c, 1.0, 1.0), beta=BETA
        )
    ),
    "cpo of log ratios": free(cpo_logit, beta=BETA),
    "simpo gamma 0, length 1": lambda c, r: logistic_loss(
        simpo_logit(chosen_logps=c, rejected_logps=r, **lengths(c, 1.0, 1.0), beta=BETA, gamma=0.0)
    ),
    "alpha to 1": lambda c, r: logistic_loss(
        dpo(alpha_score(c, alpha=1 - 1e-10), alpha_score(r, alpha=1 - 1e-10))
    ),
}


@pytest.mark.parametrize("name", list(SPECIAL_CASES))
@given(c=st.floats(-500.0, 500.0), r=st.floats(-500.0, 500.0))
def test_special_case_is_dpo(name: str, c: float, r: float) -> None:
    chosen, rejected, zero = (torch.tensor([x], dtype=torch.float64) for x in (c, r, 0.0))
    expected = dpo_loss(
        policy_chosen_logps=chosen,
        policy_rejected_logps=rejected,
        reference_chosen_logps=zero,
        reference_rejected_logps=zero,
        beta=BETA,
    )
    got = SPECIAL_CASES[name](chosen, rejected)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-9)


@given(c=st.floats(-100.0, 100.0), r=st.floats(-100.0, 100.0), scale=st.floats(0.1, 10.0))
def test_ipo_depends_on_averages_only(c: float, r: float, scale: float) -> None:
    pair = {
        "chosen_logratio": torch.tensor([c]).double(),
        "rejected_logratio": torch.tensor([r]).double(),
    }
    longer = {name: value * scale for name, value in pair.items()}
    plain = ipo_loss(**pair, **lengths(pair["chosen_logratio"]), tau=0.1)
    like = lengths(pair["chosen_logratio"], 5.0 * scale, 8.0 * scale)
    assert ipo_loss(**longer, **like, tau=0.1).item() == pytest.approx(plain.item(), rel=1e-9)


@given(st.floats(-200.0, 200.0), st.floats(-200.0, 200.0))
def test_hinge_of_free_logit_is_slic_with_delta_one(w: float, z: float) -> None:
    logps = {"chosen_logps": torch.tensor([w]), "rejected_logps": torch.tensor([z])}
    free_hinge = hinge_loss(cpo_logit(**logps, beta=1.0))
    assert slic_loss(**logps, delta=1.0).item() == pytest.approx(free_hinge.item(), abs=1e-4)
