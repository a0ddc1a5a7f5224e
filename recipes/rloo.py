"""RLOO from a file of prompts and a reward model: the whole method in one plain loop.

python recipes/rloo.py --model runs/sft/final --prompts prompts.jsonl --reward runs/reward/final
The same with checkpoints, LoRA, a watch against hacking, and resume: preftune train rft.
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
from preftune.models.load import load_policy
from preftune.training.rollout_batch import sequence_of


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean reward of each step."""
    chat, scorer = load_chat(s.model), load_scorer([s.reward])
    model, start = load_policy(s.model).eval(), load_policy(s.model).eval()
    policy, reference = Core.of(model, EngineSettings()), Core.of(start, EngineSettings())
    draw = GenerateSettings(max_new_tokens=s.max_new_tokens)
    source = PolicyRollouts(model, draw, end_ids=chat.end_ids, pad_id=chat.pad_id)
    prompts = read_prompts(s.prompts)
    ids = [chat.prompt_ids(prompt) for prompt in prompts]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    order = Order.of_lengths([len(one) for one in ids], settings, seed=s.seed)
    learner = Learner.of(model, order, settings)
    rewards: list[float] = []
    for step, numbers in enumerate(islice(order.batches(), s.steps)):
        asked = [number for number in numbers for _ in range(s.samples)]
        seeds = [s.seed + 10_000 * step + place for place in range(len(asked))]
        drawn = source.draw([ids[number] for number in asked], seeds)
        texts = [chat.decode(rollout.response_ids)[0] for rollout in drawn]
        scores = scorer.score([(prompts[n], (t,)) for n, t in zip(asked, texts, strict=True)])
        sequences = [sequence_of(rollout) for rollout in drawn]
        rows = [sequences[i : i + s.samples] for i in range(0, len(sequences), s.samples)]
        logprobs = policy.token_logprobs(rows)
        with torch.no_grad():
            kl = (logprobs.sums() - reference.token_logprobs(rows).sums()).reshape(-1, s.samples)
        score = torch.tensor(scores).reshape(-1, s.samples)
        leashed = score - s.kl_coef * kl
        of_response = rloo_advantages(rewards=leashed, scored=torch.ones_like(score).bool())
        losses = reinforce_loss(
            logprobs=logprobs.logprobs,
            advantages=of_response.reshape(-1, 1).expand_as(logprobs.logprobs),
        )
        mask = logprobs.own
        (losses * token_weights(mask, tokens=int(mask.sum()))).sum().backward()
        learner.update(step)
        rewards.append(score.mean().item())
        print(f"step {step:4d}  reward {rewards[-1]:.4f}  KL {kl.mean().item():.3f} nats a response")
    if s.out:
        model.save_pretrained(s.out)
        chat.save(s.out)
    return rewards


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--prompts", "--reward"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", help="folder for the tuned model")
    numbers = {"kl-coef": 0.1, "lr": 2e-4}
    counts = {"samples": 4, "max-new-tokens": 80, "batch-size": 8, "steps": 20, "seed": 0}
    for name, default in (numbers | counts).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
