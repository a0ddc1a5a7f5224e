"""V2: RLOO and PPO reach the optimum pi* = pi_ref e^{r / kl_coef} / Z, where J* - J = kl_coef KL.

A softmax table as policy: 4 prompts x 8 responses of one token each, drawn by the product's
sampler, trained with the product's estimators, advantages and losses.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from preftune.inference.picking import pick
from preftune.losses.advantages import gae, rloo_advantages, shaped_rewards, whiten
from preftune.losses.kl import kl_k1
from preftune.losses.policy_gradient import (
    ppo_loss,
    reinforce_loss,
    sequence_sum_weights,
    token_weights,
)
from preftune.losses.value import value_loss
from preftune.stats.over_optimisation import Evaluation, alarms

PROMPTS, RESPONSES, KL_COEF = 4, 8, 0.5
GROUP = 64  # responses per prompt and step
MASK = torch.ones(PROMPTS * GROUP, 1, dtype=torch.bool)
SCORED = torch.ones(PROMPTS, GROUP, dtype=torch.bool)


class Table:
    """The policy, its reference, the rewards, and what is known of the optimum."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.reference = torch.tensor(rng.standard_normal((PROMPTS, RESPONSES))).log_softmax(-1)
        self.reward = torch.tensor(rng.standard_normal((PROMPTS, RESPONSES)))
        self.optimum = (self.reference + self.reward / KL_COEF).log_softmax(-1)
        self.logits = self.reference.clone().requires_grad_()
        self.values = torch.zeros(PROMPTS, dtype=torch.float64, requires_grad=True)
        self.prompts = torch.arange(PROMPTS).repeat_interleave(GROUP)

    def policy(self) -> Tensor:
        return self.logits.log_softmax(-1)

    def objective(self, policy: Tensor) -> float:
        """Return J, the expected reward less the price of the KL, mean over prompts."""
        gain = self.reward - KL_COEF * (policy - self.reference)
        return float((policy.exp() * gain).sum(-1).mean())

    def gap(self) -> float:
        """Return J* - J of the policy as it is."""
        return self.objective(self.optimum) - self.objective(self.policy().detach())

    def kl_to(self, other: Tensor) -> float:
        """Return KL(policy : other) in nats, mean over prompts."""
        policy = self.policy().detach()
        return float((policy.exp() * (policy - other)).sum(-1).mean())

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return one response per row, from the policy as it is."""
        numbers = torch.rand(len(self.prompts), generator=generator, dtype=torch.float64)
        drawn, _ = pick(self.logits.detach()[self.prompts], numbers, temperature=1.0)
        return drawn

    def at(self, table: Tensor, drawn: Tensor) -> Tensor:
        """Return the entries of the drawn responses as rows of one token."""
        return table[self.prompts, drawn].unsqueeze(-1)

    def rewards(self, drawn: Tensor, kl_coef: float) -> Tensor:
        """Return the shaped rewards of the drawn responses."""
        kl = kl_k1(
            policy_logprobs=self.at(self.policy().detach(), drawn),
            reference_logprobs=self.at(self.reference, drawn),
        )
        scores = self.reward[self.prompts, drawn]
        return shaped_rewards(scores=scores, kl=kl, mask=MASK, kl_coef=kl_coef)


def rloo(table: Table, drawn: Tensor, *, optimizer: torch.optim.Optimizer, kl_coef: float) -> None:
    """Take one step on fresh samples."""
    rewards = table.rewards(drawn, kl_coef).sum(-1).reshape(PROMPTS, GROUP)
    advantages = rloo_advantages(rewards=rewards, scored=SCORED).reshape(-1, 1)
    losses = reinforce_loss(logprobs=table.at(table.policy(), drawn), advantages=advantages)
    weights = sequence_sum_weights(MASK, sequences=len(MASK))
    stepped(optimizer, (losses * weights).sum())


def ppo(table: Table, drawn: Tensor, *, optimizer: torch.optim.Optimizer, kl_coef: float) -> None:
    """Take two clipped steps of policy and value model on the same samples."""
    old = table.at(table.policy().detach(), drawn)
    old_values = table.values.detach()[table.prompts].unsqueeze(-1)
    rewards = table.rewards(drawn, kl_coef)
    raw, returns = gae(rewards=rewards, values=old_values, mask=MASK, gamma=1.0, gae_lambda=0.95)
    advantages = whiten(values=raw, mask=MASK)
    for _ in range(2):
        losses = ppo_loss(
            logprobs=table.at(table.policy(), drawn),
            old_logprobs=old,
            advantages=advantages,
            clip_low=0.2,
            clip_high=0.2,
        ) + value_loss(
            values=table.values[table.prompts].unsqueeze(-1),
            old_values=old_values,
            returns=returns,
            clip_eps=0.2,
        )
        stepped(optimizer, (losses * token_weights(MASK, tokens=len(MASK))).sum())


def stepped(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


Method = Callable[..., None]


def train(
    method: Method, *, lr: float, steps: int, seed: int, kl_coef: float
) -> tuple[Table, list[float]]:
    """Return the trained table and the mean reward of each step; the rate falls to 0."""
    table, generator = Table(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD([table.logits, table.values], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step = partial(method, optimizer=optimizer, kl_coef=kl_coef)
    rewards = []
    for _ in range(steps):
        drawn = table.draw(generator)
        rewards.append(float(table.reward[table.prompts, drawn].mean()))
        step(table, drawn)
        schedule.step()
    return table, rewards


def test_v02_lost_objective_is_the_price_of_the_kl_from_the_optimum() -> None:
    table = Table()
    assert table.gap() == pytest.approx(0.5509215669, abs=1e-9)
    assert KL_COEF * table.kl_to(table.optimum) == pytest.approx(0.5509215669, abs=1e-9)


@pytest.mark.parametrize(("method", "lr"), [(rloo, 8.0), (ppo, 2.0)], ids=["rloo", "ppo"])
@pytest.mark.parametrize("seed", [0, 1])
def test_v02_optimum_is_reached(method: Method, lr: float, seed: int) -> None:
    table, rewards = train(method, lr=lr, steps=200, seed=seed, kl_coef=KL_COEF)
    assert table.gap() <= 0.002
    assert table.kl_to(table.optimum) <= 0.004
    first, *_, last = np.array(rewards).reshape(-1, 100).mean(-1)
    assert last > first + 0.03


def test_v02_without_a_leash_the_policy_leaves_its_reference() -> None:
    table, rewards = train(rloo, lr=6.0, steps=60, seed=0, kl_coef=0.0)
    kl = table.kl_to(table.reference)
    assert kl > 1
    rows = [
        Evaluation(step=step, proxy=rewards[step], kl=far, length_tokens=1, repetition=0)
        for step, far in ((0, 0.0), (59, kl))
    ]
    assert [alarm.name for alarm in alarms(rows, kl_alarm=1.0)] == ["kl"]
    held, _ = train(rloo, lr=6.0, steps=60, seed=0, kl_coef=2.0)
    assert held.kl_to(held.reference) < 0.2
