"""RLOO from a file of prompts and a reward model: the whole method in one plain loop.

python recipes/rloo.py --model runs/sft/final --prompts prompts.jsonl --reward runs/reward/final
"""

import argparse
from itertools import islice

import torch

from preftune.datasets import read_prompts
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.inference.generate import GenerateSettings
from preftune.inference.policy_rollouts import PolicyRollouts
from preftune.inference.reward_scorer import load_scorer
from preftune.losses.advantages import rloo_advantages
from preftune.losses.policy_gradient import reinforce_loss, token_weights
from preftune.models.chat import load_chat
from preftune.models.load import load_policy, save_policy
from preftune.training.policy_settings import RewardingSettings
from preftune.training.rollout_batch import PromptRow, experience


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean reward of each step."""
    chat, scorer = load_chat(s.model), load_scorer([s.reward])
    model, start = load_policy(s.model).eval(), load_policy(s.model).eval()
    policy, reference = Core.of(model, EngineSettings()), Core.of(start, EngineSettings())
    draw = GenerateSettings(max_new_tokens=s.max_new_tokens)
    source = PolicyRollouts(model, draw, end_ids=chat.end_ids, pad_id=chat.pad_id)
    prompts = [PromptRow(prompt=p, ids=chat.prompt_ids(p)) for p in read_prompts(s.prompts)]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    order = Order.of_lengths([len(row.ids) for row in prompts], settings, seed=s.seed)
    learner = Learner.of(model, order, settings)
    rewards: list[float] = []
    for step, numbers in enumerate(islice(order.batches(), s.steps)):
        batch = [prompts[number] for number in numbers]
        seeds = [s.seed + 10_000 * step + place for place in range(len(batch) * s.samples)]
        drawn = experience(
            source, scorer, chat, batch, RewardingSettings(), samples=s.samples, seeds=seeds
        )
        found = policy.token_logprobs(drawn.rows)
        with torch.no_grad():
            kl = (found.sums() - reference.token_logprobs(drawn.rows).sums()).cpu()
        leashed = drawn.rewards - s.kl_coef * kl.reshape(drawn.rewards.shape)
        of_response = rloo_advantages(rewards=leashed, scored=drawn.scored)
        of_token = of_response.reshape(-1, 1).expand(found.own.shape).to(found.logprobs)
        losses = reinforce_loss(logprobs=found.logprobs, advantages=of_token)
        (losses * token_weights(found.own, tokens=int(found.own.sum()))).sum().backward()
        learner.update(step)
        rewards.append(drawn.rewards.mean().item())
        print(f"step {step:4d}  reward {rewards[-1]:.4f}  KL {kl.mean():.3f} nats a response")
    if s.out:
        save_policy(model, chat, s.out)
    return rewards


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--prompts", "--reward"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", help="folder for the tuned model")
    parser.add_argument("--kl-coef", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=2e-4)
    counts = {"samples": 4, "max-new-tokens": 80, "batch-size": 8, "steps": 20, "seed": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
