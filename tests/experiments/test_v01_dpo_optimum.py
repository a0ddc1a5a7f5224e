"""V1: DPO reaches the KL-regularised optimum pi* = pi_ref e^{r / beta} / Z, through `dpo_loss`."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.losses.direct import dpo_loss

PROMPTS, RESPONSES, BETA = 4, 8, 0.5


class Table:
    """4 prompts x 8 responses: a softmax table as policy, with its reference and its rewards."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.reference = torch.tensor(rng.standard_normal((PROMPTS, RESPONSES))).log_softmax(-1)
        self.reward = torch.tensor(rng.standard_normal((PROMPTS, RESPONSES)))
        self.optimum = (self.reference + self.reward / BETA).log_softmax(-1)
        x, i, j = torch.meshgrid(
            torch.arange(PROMPTS), torch.arange(RESPONSES), torch.arange(RESPONSES), indexing="ij"
        )
        self.prompt, self.first, self.second = x[i != j], i[i != j], j[i != j]
        gap = self.reward[self.prompt, self.first] - self.reward[self.prompt, self.second]
        self.first_wins = torch.sigmoid(gap)  # Bradley–Terry, exact

    def losses(self, policy: Tensor) -> Tensor:
        """Return the loss of each ordered pair (first chosen, second rejected)."""
        return dpo_loss(
            policy_chosen_logps=policy[self.prompt, self.first],
            policy_rejected_logps=policy[self.prompt, self.second],
            reference_chosen_logps=self.reference[self.prompt, self.first],
            reference_rejected_logps=self.reference[self.prompt, self.second],
            beta=BETA,
        )

    def fit(self, weights: Tensor) -> Tensor:
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
            value = (weights * self.losses(logits.log_softmax(-1))).sum() / weights.sum()
            value.backward()
            return value

        optimizer.step(closure)
        return logits.detach().log_softmax(-1)

    def kl_from_optimum(self, policy: Tensor) -> float:
        """Return KL(pi* : policy) in nats, mean over prompts."""
        return float((self.optimum.exp() * (self.optimum - policy)).sum(-1).mean())


def sampled_weights(table: Table, pairs_per_prompt: int, seed: int) -> Tensor:
    """Return how often each ordered pair was labelled: uniform pairs, Bradley–Terry labels."""
    generator = torch.Generator().manual_seed(seed)
    per_prompt = RESPONSES * (RESPONSES - 1)
    weights = torch.zeros(PROMPTS * per_prompt, dtype=torch.float64)
    for prompt in range(PROMPTS):
        here = slice(prompt * per_prompt, (prompt + 1) * per_prompt)
        drawn = torch.multinomial(
            table.first_wins[here], pairs_per_prompt, replacement=True, generator=generator
        )
        weights[here] = torch.bincount(drawn, minlength=per_prompt).double()
    return weights


def test_v01_population_optimum_is_reached() -> None:
    table = Table()
    start = table.losses(table.reference)
    assert start.tolist() == pytest.approx([math.log(2)] * len(start), abs=1e-6)
    policy = table.fit(table.first_wins)
    assert table.kl_from_optimum(table.reference) > 0.1
    assert table.kl_from_optimum(policy) <= 1e-6
    h = policy - table.reference
    shift = BETA * h - table.reward  # beta (h_i - h_j) = r_i - r_j: constant within a prompt
    assert (shift - shift.mean(-1, keepdim=True)).abs().max().item() <= 1e-4


def test_v01_sampled_pairs_close_in_as_one_over_n() -> None:
    table = Table()
    kl = {
        n: np.mean(
            [table.kl_from_optimum(table.fit(sampled_weights(table, n, s))) for s in range(5)]
        )
        for n in (2_000, 20_000)
    }
    assert kl[20_000] <= 0.005
    assert 5 <= kl[2_000] / kl[20_000] <= 15
