"""Online DPO in one plain loop: draw, let a reward model judge, learn from best against worst.

python recipes/online_dpo.py --model runs/sft/final --prompts p.jsonl --reward runs/reward/final
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
from preftune.losses.direct import dpo_logit, logistic_loss
from preftune.models.chat import load_chat
from preftune.models.load import load_policy, save_policy
from preftune.training.online import fresh_pairs
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
        rewards.append(drawn.rewards.mean().item())
        pairs = [pair.sequences for pair in fresh_pairs(drawn, least_gap=0.0)]
        if not pairs:
            continue  # all responses to a prompt are alike: nothing to compare
        logps = policy.token_logprobs(pairs).sums()
        with torch.no_grad():
            frozen = reference.token_logprobs(pairs).sums()
        moved = logps - frozen  # chosen, rejected, chosen, …
        logit = dpo_logit(chosen_logratio=moved[0::2], rejected_logratio=moved[1::2], beta=s.beta)
        loss = logistic_loss(logit).mean()
        loss.backward()
        learner.update(step)
        print(f"step {step:4d}  loss {loss.item():.4f} nats  reward {rewards[-1]:.4f}")
    if s.out:
        save_policy(model, chat, s.out)
    return rewards


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--prompts", "--reward"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", help="folder for the tuned model")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=2e-4)
    counts = {"samples": 4, "max-new-tokens": 80, "batch-size": 8, "steps": 20, "seed": 0}
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
