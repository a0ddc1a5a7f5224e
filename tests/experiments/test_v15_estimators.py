"""V15, estimators: KL of replies, advantages and policy losses against what algebra says.

The policy writes words by a Markov table and ends by a word of its own, so replies differ in
length; they are drawn by the product's sampler.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from preftune.inference.picking import pick
from preftune.losses.advantages import gae, rewards_to_go, shaped_rewards, whiten
from preftune.losses.kl import kl_k1, kl_k2, kl_k3
from preftune.losses.policy_gradient import ppo_loss, token_weights

WORDS, END, LONGEST = 4, 3, 6


def table(seed: int) -> Tensor:
    """Log-probs of the next word after each word; the first row opens a reply."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WORDS, WORDS, generator=generator, dtype=torch.float64).log_softmax(-1)


POLICY, REFERENCE = table(0), table(1)


@dataclass(frozen=True)
class Replies:
    """Log-probs of the own tokens under both, 0 behind them; what the sampler said of them."""

    policy: Tensor
    reference: Tensor
    sampled: Tensor
    mask: Tensor


def draw(count: int) -> Replies:
    generator = torch.Generator().manual_seed(2)
    last = torch.zeros(count, dtype=torch.long)
    alive = torch.ones(count, dtype=torch.bool)
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(LONGEST):
        numbers = torch.rand(count, generator=generator, dtype=torch.float64)
        word, (plain, _) = pick(POLICY[last], numbers, temperature=1.0)
        policy, reference = (p[last, word].where(alive, 0.0) for p in (POLICY, REFERENCE))
        columns.append((policy, reference, plain.where(alive, 0.0), alive))
        alive, last = alive & (word != END), word
    return Replies(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))


def exact_kl() -> float:
    """KL(policy : reference) of a reply: the KL at each word, times the chance to be there."""
    at_word = (POLICY.exp() * (POLICY - REFERENCE)).sum(-1)
    here = torch.eye(WORDS, dtype=torch.float64)[0]
    total = 0.0
    for _ in range(LONGEST):
        total += float(here @ at_word)
        here = here @ POLICY.exp()
        here[END] = 0.0
    return total


@pytest.fixture(scope="module")
def replies() -> Replies:
    return draw(10_000)


def test_v15_sampler_and_policy_agree_on_what_was_drawn(replies: Replies) -> None:
    assert (replies.sampled - replies.policy).abs().max().item() < 1e-12
    lengths = replies.mask.sum(-1)
    assert {1, LONGEST} <= set(lengths.tolist())


def test_v15_k1_and_k3_are_unbiased_per_reply_and_k2_is_not(replies: Replies) -> None:
    kl = exact_kl()
    off = {}
    for estimator in (kl_k1, kl_k2, kl_k3):
        each = estimator(policy_logprobs=replies.policy, reference_logprobs=replies.reference)
        assert (each[~replies.mask] == 0).all()
        sums = each.sum(-1)
        off[estimator.__name__] = float((sums.mean() - kl) / (sums.std() / len(sums) ** 0.5))
    assert abs(off["kl_k1"]) < 3
    assert abs(off["kl_k3"]) < 3
    assert abs(off["kl_k2"]) > 10


def test_v15_shaped_rewards_sum_to_score_less_the_kl(replies: Replies) -> None:
    kl = kl_k1(policy_logprobs=replies.policy, reference_logprobs=replies.reference)
    scores = replies.policy.sum(-1)  # any number per reply
    rewards = shaped_rewards(scores=scores, kl=kl, mask=replies.mask, kl_coef=0.3)
    assert (rewards.sum(-1) - (scores - 0.3 * kl.sum(-1))).abs().max().item() < 1e-12


def test_v15_gae_has_its_limits(replies: Replies) -> None:
    few = slice(0, 64)
    mask, rewards, values = (x[few] for x in (replies.mask, replies.policy, replies.reference))
    given = {"rewards": rewards, "values": values, "mask": mask}
    monte_carlo, returns = gae(**given, gamma=1.0, gae_lambda=1.0)
    to_go = rewards_to_go(rewards=rewards, mask=mask)
    assert (returns - to_go).abs().max().item() < 1e-12
    assert (monte_carlo - (to_go - values)).abs().max().item() < 1e-12
    one_step, _ = gae(**given, gamma=0.9, gae_lambda=0.0)
    following = torch.cat([values[:, 1:], torch.zeros(64, 1, dtype=torch.float64)], 1)
    td = (rewards + 0.9 * following - values).masked_fill(~mask, 0.0)
    assert (one_step - td).abs().max().item() < 1e-12


def step(
    replies: Replies, rows: Tensor, parts: list[Tensor], *, padding: int
) -> tuple[float, Tensor]:
    """Return loss and gradient in the log-probs of one PPO step on these rows, cut into parts."""
    padded = {
        name: torch.nn.functional.pad(getattr(replies, name)[rows], (0, padding))
        for name in ("policy", "reference", "mask")
    }
    mask, old = padded["mask"], padded["policy"]
    kl = kl_k1(policy_logprobs=old, reference_logprobs=padded["reference"])
    rewards = shaped_rewards(scores=old.sum(-1), kl=kl, mask=mask, kl_coef=0.1)
    raw, _ = gae(rewards=rewards, values=old, mask=mask, gamma=1.0, gae_lambda=0.95)
    advantages = whiten(values=raw, mask=mask)
    now = (old + 0.3 * padded["reference"]).requires_grad_()
    total = 0.0
    for part in parts:
        losses = ppo_loss(
            logprobs=now[part],
            old_logprobs=old[part],
            advantages=advantages[part],
            clip_low=0.2,
            clip_high=0.28,
        )
        loss = (losses * token_weights(mask[part], tokens=int(mask.sum()))).sum()
        loss.backward()
        total += loss.item()
    assert now.grad is not None
    assert (now.grad[~mask] == 0).all()
    return total, now.grad[:, :LONGEST]


def test_v15_padding_order_and_cut_of_a_step_change_nothing(replies: Replies) -> None:
    rows = torch.arange(8)
    whole, gradient = step(replies, rows, [rows], padding=0)
    mixed = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    for order, parts, padding in (
        (rows, [rows], 5),
        (mixed, [rows], 0),
        (rows, list(rows.split(1)), 2),
        (mixed, list(rows.split(3)), 1),
    ):
        loss, moved = step(replies, order, parts, padding=padding)
        assert loss == pytest.approx(whole, abs=1e-6)
        assert (moved - gradient[order]).abs().max().item() < 1e-6
