"""V6: 20 % of the labels are flipped. rDPO at the true rate undoes it; cDPO makes it worse."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_logit, flip_corrected_loss, logistic_loss, smoothed_loss

BETA, FLIPPED = 0.5, 0.2
Treatment = Callable[[Tensor], Tensor]


class Table:
    """A softmax table as policy; every ordered pair, with its share of all labels."""

    def __init__(self, prompts: int, responses: int) -> None:
        rng = np.random.default_rng(0)
        self.reference = torch.tensor(rng.standard_normal((prompts, responses))).log_softmax(-1)
        self.reward = torch.tensor(rng.standard_normal((prompts, responses)))
        self.optimum = (self.reference + self.reward / BETA).log_softmax(-1)
        first, second = torch.nonzero(~torch.eye(responses, dtype=torch.bool), as_tuple=True)
        self.first, self.second = first, second
        self.clean = torch.sigmoid(self.reward[:, first] - self.reward[:, second])
        self.noisy = (1 - FLIPPED) * self.clean + FLIPPED * (1 - self.clean)

    def loss(self, logits: Tensor, weights: Tensor, treatment: Treatment) -> Tensor:
        """Return the weighted mean loss of the policy with these logits."""
        h = logits.log_softmax(-1) - self.reference
        logit = dpo_logit(
            chosen_logratio=h[:, self.first].flatten(),
            rejected_logratio=h[:, self.second].flatten(),
            beta=BETA,
        )
        return (weights.flatten() * treatment(logit)).sum() / weights.sum()

    def fit(self, weights: Tensor, treatment: Treatment) -> Tensor:
        """Return the policy that minimises the weighted loss."""
        logits = self.reference.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [logits],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = self.loss(logits, weights, treatment)
            value.backward()
            return value

        optimizer.step(closure)
        return logits.detach().log_softmax(-1)

    def kl_from_optimum(self, policy: Tensor) -> float:
        """Return KL(pi* : policy) in nats, mean over prompts."""
        return float((self.optimum.exp() * (self.optimum - policy)).sum(-1).mean())

    def gaps(self, policy: Tensor) -> Tensor:
        """Return beta * (h_first - h_second) of every ordered pair."""
        h = policy - self.reference
        return BETA * (h[:, self.first] - h[:, self.second])


@pytest.mark.parametrize(
    ("treatment", "measured"),
    [
        (logistic_loss, 0.18901),
        (partial(smoothed_loss, flip_rate=0.2), 0.39728),
        (partial(flip_corrected_loss, flip_rate=0.1), 0.08814),
    ],
    ids=["dpo", "cdpo", "rdpo_understated"],
)
def test_v06_flips_leave_these_losses_off_the_optimum(
    treatment: Treatment, measured: float
) -> None:
    table = Table(4, 8)
    kl = table.kl_from_optimum(table.fit(table.noisy, treatment))
    assert kl == pytest.approx(measured, abs=1e-5)


def test_v06_rdpo_at_the_true_rate_reaches_the_optimum() -> None:
    table = Table(4, 8)
    assert table.kl_from_optimum(table.fit(table.clean, logistic_loss)) <= 1e-10
    treatment = partial(flip_corrected_loss, flip_rate=FLIPPED)
    assert table.kl_from_optimum(table.fit(table.noisy, treatment)) <= 1e-5


def test_v06_gaps_of_dpo_and_cdpo_equal_their_closed_forms() -> None:
    # two responses per prompt: each pair is free to take its own gap
    table, rate = Table(28, 2), 0.2
    dpo = table.gaps(table.fit(table.noisy, logistic_loss))
    assert dpo.flatten().tolist() == pytest.approx(table.noisy.logit().flatten().tolist(), abs=1e-4)
    cdpo = table.gaps(table.fit(table.noisy, partial(smoothed_loss, flip_rate=rate)))
    twice = (1 - rate) * table.noisy + rate * (1 - table.noisy)
    assert cdpo.flatten().tolist() == pytest.approx(twice.logit().flatten().tolist(), abs=1e-4)


def test_v06_an_overstated_rate_runs_away_with_a_negative_loss() -> None:
    # at .3 some pairs count as negative evidence, so no optimum exists: the loss falls below the
    # 0 that no log loss can reach, while the policy only gets worse
    table = Table(4, 8)
    logits = table.reference.clone().requires_grad_()
    treatment = partial(flip_corrected_loss, flip_rate=0.3)
    kl, losses = [], []
    for step in range(1001):
        loss = table.loss(logits, table.noisy, treatment)
        (gradient,) = torch.autograd.grad(loss, [logits])
        with torch.no_grad():
            logits -= 20.0 * gradient
        if step % 250 == 0:
            kl.append(table.kl_from_optimum(logits.detach().log_softmax(-1)))
            losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0 < losses[1]
    assert kl[1:] == sorted(kl[1:])
    assert kl[-1] > 5.0
