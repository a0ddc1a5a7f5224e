"""V13: the chosen response gets less likely while the margin grows, for plain DPO only.

A policy with one free hidden vector and fixed output embeddings; those of chosen and rejected are
alike, so pushing the rejected one down takes the chosen one with it.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_logit, dpop_logit, logistic_loss
from preftune.losses.tokens import token_mean_nll

BETA, LR, STEPS = 0.5, 0.5, 100
EMBEDDINGS = torch.tensor(
    [[1.0, 0.0, 0.0], [1.5, -0.3, 0.0], [-1.0, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64
)
Loss = Callable[[Tensor, Tensor], Tensor]  # log-probs of the 4 responses: policy, reference


def dpo(policy: Tensor, reference: Tensor) -> Tensor:
    h = policy - reference
    return logistic_loss(dpo_logit(chosen_logratio=h[:1], rejected_logratio=h[1:2], beta=BETA))


def dpo_and_nll(policy: Tensor, reference: Tensor) -> Tensor:
    chosen = policy[:1].unsqueeze(0)  # one response of one token
    nll = token_mean_nll(logprobs=chosen, mask=torch.ones_like(chosen, dtype=torch.bool))
    return dpo(policy, reference) + nll


def dpop(policy: Tensor, reference: Tensor) -> Tensor:
    h = policy - reference
    return logistic_loss(
        dpop_logit(chosen_logratio=h[:1], rejected_logratio=h[1:2], beta=BETA, penalty=5.0)
    )


def trained(loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the log-probs before and after training."""
    hidden = torch.tensor([0.6, 0.1, 0.9], dtype=torch.float64, requires_grad=True)
    reference = (EMBEDDINGS @ hidden).log_softmax(-1).detach()
    for _ in range(STEPS):
        value = loss((EMBEDDINGS @ hidden).log_softmax(-1), reference)
        (gradient,) = torch.autograd.grad(value.sum(), [hidden])
        with torch.no_grad():
            hidden -= LR * gradient
    return reference, (EMBEDDINGS @ hidden).log_softmax(-1).detach()


@pytest.mark.parametrize(
    ("loss", "end", "chosen_change", "margin", "displaced"),
    [
        (dpo, [0.000, 0.000, 0.977, 0.023], -6.711, 2.725, True),
        (dpo_and_nll, [0.553, 0.303, 0.132, 0.011], 0.789, 0.871, False),
        (dpop, [0.304, 0.178, 0.415, 0.103], 0.191, 0.808, False),
    ],
    ids=["dpo", "dpo_and_nll", "dpop"],
)
def test_v13_only_plain_dpo_displaces_the_chosen_response(
    loss: Loss, end: list[float], chosen_change: float, margin: float, displaced: bool
) -> None:
    reference, policy = trained(loss)
    change = policy - reference
    grown = (change[0] - change[1]).item()
    assert reference.exp().tolist() == pytest.approx([0.251, 0.329, 0.080, 0.339], abs=6e-4)
    assert policy.exp().tolist() == pytest.approx(end, abs=6e-4)
    assert [change[0].item(), grown] == pytest.approx([chosen_change, margin], abs=6e-4)
    assert (grown > 0 and change[0].item() < -0.5) == displaced
