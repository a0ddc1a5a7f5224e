"""V10: what happens to a response that no pair shows: DPO against leashed reinforcement learning.

A log-linear policy over three responses with features 1, 0, 3 and the reference (.4995, .4995,
.001). The pairs only say that the first beats the second; the third shares their feature.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from preftune.datasets.audit_material import LinedPair
from preftune.evaluation.audit_models import AuditModelSettings, off_policy_section
from preftune.losses.advantages import shaped_rewards
from preftune.losses.direct import dpo_loss
from preftune.losses.kl import kl_k1
from preftune.losses.pairwise import bradley_terry_loss
from preftune.losses.policy_gradient import reinforce_loss
from preftune.models.chat import load_chat
from preftune.models.load import load_policy, save_weights
from preftune.models.new import new_model
from preftune.types import PreferencePair, assistant, make_prompt, user

FEATURES = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
REFERENCE = torch.tensor([0.4995, 0.4995, 0.001], dtype=torch.float64).log()
MASK = torch.ones(3, 1, dtype=torch.bool)
RIDGE = 0.05


def policy_of(theta: Tensor) -> Tensor:
    """Return the log-probs of the three responses."""
    return (REFERENCE + theta * FEATURES).log_softmax(-1)


def free() -> Tensor:
    return torch.zeros(1, dtype=torch.float64, requires_grad=True)


def dpo(steps: int) -> Tensor:
    """Return the policy after so many steps of size 1 on the pair."""
    theta = free()
    for _ in range(steps):
        logps = policy_of(theta)
        loss = dpo_loss(
            policy_chosen_logps=logps[:1],
            policy_rejected_logps=logps[1:2],
            reference_chosen_logps=REFERENCE[:1],
            reference_rejected_logps=REFERENCE[1:2],
            beta=0.1,
        )
        (slope,) = torch.autograd.grad(loss.sum(), [theta])
        theta = (theta - slope).detach().requires_grad_()
    return policy_of(theta).detach()


@pytest.fixture(scope="module")
def reward() -> Tensor:
    """What a reward model on the same features learns from the pair, of each response."""
    weight = free()
    for _ in range(500):
        scores = weight * FEATURES
        loss = bradley_terry_loss(chosen_rewards=scores[:1], rejected_rewards=scores[1:2])
        (slope,) = torch.autograd.grad(loss.sum() + 0.5 * RIDGE * weight.square().sum(), [weight])
        weight = (weight - 2 * slope).detach().requires_grad_()
    return (weight * FEATURES).detach()


def leashed(reward: Tensor, kl_coef: float) -> Tensor:
    """Return the policy that the exact policy gradient of the shaped reward ends at."""
    theta = free()
    for _ in range(600):
        logps = policy_of(theta)
        now = logps.detach()[:, None]
        kl = kl_k1(policy_logprobs=now, reference_logprobs=REFERENCE[:, None])
        gain = shaped_rewards(scores=reward, kl=kl, mask=MASK, kl_coef=kl_coef)
        advantages = gain - (now.exp() * gain).sum()
        loss = (now.exp() * reinforce_loss(logprobs=logps[:, None], advantages=advantages)).sum()
        (slope,) = torch.autograd.grad(loss, [theta])
        theta = (theta - 1.5 * slope).detach().requires_grad_()
    return policy_of(theta).detach()


def optimum(reward: Tensor, kl_coef: float) -> Tensor:
    """Return pi_ref e^(reward / kl_coef) / Z as log-probs."""
    return (REFERENCE + reward / kl_coef).log_softmax(-1)


@pytest.mark.parametrize(("steps", "unseen"), [(50, 0.1682), (200, 0.9999), (1000, 1.0)])
def test_v10_dpo_moves_its_mass_to_the_unseen_response(steps: int, unseen: float) -> None:
    policy = dpo(steps)
    assert policy[2].exp().item() == pytest.approx(unseen, abs=1e-4)
    moved = policy - REFERENCE
    assert moved[0] > moved[1]  # train accuracy 1.0 all along


def test_v10_reward_model_extrapolates_to_the_unseen_response(reward: Tensor) -> None:
    assert reward.tolist() == pytest.approx([2.13, 0, 6.38], abs=0.005)


@pytest.mark.parametrize(("kl_coef", "unseen"), [(0.1, 1.0), (0.5, 0.9076), (1.0, 0.1120)])
def test_v10_leashed_optimum_keeps_its_bound(reward: Tensor, kl_coef: float, unseen: float) -> None:
    policy = optimum(reward, kl_coef)
    bound = REFERENCE[2] + (reward[2] - reward.min()) / kl_coef
    assert policy[2].exp().item() == pytest.approx(unseen, abs=1e-4)
    assert policy[2] <= bound
    knows_nothing = optimum(reward * torch.tensor([1.0, 1.0, 0.0]), kl_coef)
    assert knows_nothing[2].exp().item() < 2.5e-4


def test_v10_policy_gradient_ends_at_the_leashed_optimum(reward: Tensor) -> None:
    policy = leashed(reward, kl_coef=1.0)
    assert policy.exp().tolist() == pytest.approx(optimum(reward, 1.0).exp().tolist(), abs=1e-4)


def as_model(base: Path, out: Path, policy: Tensor) -> Path:
    """Write a model that says each response, a word, with the policy's odds, or ends, at any place.

    Its layers add nothing and all its embeddings point one way, so that every place has the same
    logits: the lengths of the tied embeddings.
    """
    chat, model = load_chat(base), load_policy(base)
    logits = torch.full((model.config.vocab_size,), -30.0)
    for word, logp in zip(("y1", "y2", "y3"), policy.tolist(), strict=True):
        (token,) = chat.encode(make_prompt(user("?")), (assistant(word),)).response_ids[:1]
        logits[token] = logp
    logits[list(chat.end_ids)] = 0.0  # as likely as all three words
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        width = model.config.hidden_size
        rows = model.get_input_embeddings().weight.zero_()
        rows[:, 0] = (logits + 100) / width**0.5
    save_weights(model, out)
    chat.tokenizer.save_pretrained(str(out))
    return out


def test_v10_off_policy_check_flags_the_pairs_of_the_trained_policy(tmp_path: Path) -> None:
    base = new_model(
        tmp_path / "base",
        preset="tiny",
        texts=["y1 y2 y3 ? " + " ".join(f"q{n}" for n in range(40))],
        vocab_size=90,
        seed=0,
        tokenizer="words",
    )
    pairs = [
        LinedPair(
            line=n,
            prompt=f"q{n}",
            pair=PreferencePair(
                id=f"p{n}",
                prompt=make_prompt(user(f"q{n}")),
                chosen=(assistant("y1"),),
                rejected=(assistant("y2"),),
            ),
        )
        for n in range(40)
    ]
    verdicts = {}
    for name, policy in (("reference", REFERENCE), ("trained", dpo(200))):
        folder = as_model(base, tmp_path / name, policy)
        s = AuditModelSettings(model=str(folder), max_new_tokens=8)
        section = off_policy_section(pairs, load_chat(folder), s, out=tmp_path / f"out-{name}")
        verdicts[name] = [finding.verdict for finding in section.findings]
    assert verdicts == {"reference": ["ok", "ok"], "trained": ["look", "look"]}
