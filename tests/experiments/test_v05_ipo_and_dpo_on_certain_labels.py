"""V5: labels that never vary. IPO stops at a finite gap; DPO's margin grows like log(steps)."""

import math

import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.losses.length import ipo_sum_loss

THREE = (torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]))  # y1 > y2 > y3, always
TWO = (torch.tensor([0]), torch.tensor([1]))


def ipo_optimum(pairs: tuple[Tensor, Tensor], actions: int, tau: float) -> Tensor:
    """Return the policy that minimises the IPO loss of the pairs, from a uniform reference."""
    logits = torch.zeros(actions, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        h = logits.log_softmax(-1) + math.log(actions)
        loss = ipo_sum_loss(
            chosen_logratio=h[pairs[0]], rejected_logratio=h[pairs[1]], tau=tau
        ).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach().log_softmax(-1)


@pytest.mark.parametrize(
    ("tau", "probabilities"),
    [(0.1, [0.964370, 0.034403, 0.001227]), (1.0, [0.448441, 0.321322, 0.230237])],
)
def test_v05_ipo_stops_at_its_closed_form(tau: float, probabilities: list[float]) -> None:
    policy = ipo_optimum(THREE, 3, tau)
    gaps = [(policy[i] - policy[j]).item() for i, j in ((0, 1), (1, 2), (0, 2))]
    assert gaps == pytest.approx([1 / (3 * tau), 1 / (3 * tau), 2 / (3 * tau)], abs=1e-4)
    assert policy.exp().tolist() == pytest.approx(probabilities, abs=1e-6)


@pytest.mark.parametrize(("tau", "probability"), [(0.1, 0.993307), (1.0, 0.622459)])
def test_v05_ipo_of_two_actions_stops_at_its_closed_form(tau: float, probability: float) -> None:
    assert ipo_optimum(TWO, 2, tau).exp()[0].item() == pytest.approx(probability, abs=1e-6)


def dpo_margins(beta: float, steps: int, lr: float = 10.0) -> list[float]:
    """Return h13 before each step of gradient descent and after the last one."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    margins = [0.0]
    for _ in range(steps):
        h = logits.log_softmax(-1) + math.log(3)
        logit = dpo_logit(chosen_logratio=h[THREE[0]], rejected_logratio=h[THREE[1]], beta=beta)
        (gradient,) = torch.autograd.grad(logistic_loss(logit).mean(), [logits])
        with torch.no_grad():
            logits -= lr * gradient
        margins.append((logits[0] - logits[2]).item())
    return margins


@pytest.mark.parametrize(("beta", "at_100", "at_1000"), [(0.1, 30.2, 70.9), (1.0, 11.8, 16.2)])
def test_v05_dpo_never_stops(beta: float, at_100: float, at_1000: float) -> None:
    margins = torch.tensor(dpo_margins(beta, 1000), dtype=torch.float64)
    assert (margins.diff() > 0).all()
    assert margins[[100, 1000]].tolist() == pytest.approx([at_100, at_1000], rel=0.01)
    # late in the run each of h12, h23 grows like log(step) / beta
    assert (margins[1000] - margins[300]).item() == pytest.approx(
        2 * math.log(1000 / 300) / beta, rel=0.1
    )
