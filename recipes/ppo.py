"""PPO with all four roles in one copy of the weights: what a step does, in order.

python recipes/ppo.py --model runs/sft/final --prompts prompts.jsonl --reward runs/reward/final
"""

import argparse
from itertools import islice

from preftune.datasets import read_prompts
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.optimizer import Part
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.inference.generate import GenerateSettings
from preftune.inference.policy_rollouts import PolicyRollouts
from preftune.inference.reward_scorer import load_scorer
from preftune.losses.advantages import gae, shaped_rewards, whiten
from preftune.losses.policy_gradient import ppo_loss, token_weights
from preftune.losses.value import value_loss
from preftune.models.chat import load_chat
from preftune.models.load import load_policy, save_policy
from preftune.models.lora import LoraSettings
from preftune.training.policy_settings import RewardingSettings
from preftune.training.roles import new_roles
from preftune.training.rollout_batch import PromptRow, experience


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean reward of each step."""
    chat, scorer, model = load_chat(s.model), load_scorer([s.reward]), load_policy(s.model)
    lora, engine = LoraSettings(lora_rank=s.rank), EngineSettings()
    roles = new_roles(model, lora=lora, engine=engine, with_value=True, seed=s.seed)
    draw = GenerateSettings(max_new_tokens=s.max_new_tokens)
    source = PolicyRollouts(roles.policy, draw, end_ids=chat.end_ids, pad_id=chat.pad_id)
    prompts = [PromptRow(prompt=p, ids=chat.prompt_ids(p)) for p in read_prompts(s.prompts)]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    order = Order.of_lengths([len(row.ids) for row in prompts], settings, seed=s.seed)
    parts = (Part(name="critic", mark="critic", lr_factor=4.0), Part())
    learner, rewards = Learner.of(roles.actors, order, settings, parts=parts), list[float]()
    for step, numbers in enumerate(islice(order.batches(), s.steps)):
        batch = [prompts[number] for number in numbers]
        seeds = [s.seed + 10_000 * step + place for place in range(len(batch))]
        drawn = experience(source, scorer, chat, batch, RewardingSettings(), samples=1, seeds=seeds)
        mask, tokens = drawn.mask, int(drawn.mask.sum())
        old, reference = roles.logprobs(drawn.rows).detach(), roles.reference_logprobs(drawn.rows)
        with roles.valuing() as values_of:
            values = values_of(drawn.rows).detach()
        kl, scores = old - reference, drawn.rewards.flatten()
        shaped = shaped_rewards(scores=scores, kl=kl, mask=mask, kl_coef=s.kl_coef)
        raw, returns = gae(rewards=shaped, values=values, mask=mask, gamma=1.0, gae_lambda=0.95)
        advantages, weights = whiten(values=raw, mask=mask), token_weights(mask, tokens=tokens)
        for _ in range(s.updates):
            now = {"logprobs": roles.logprobs(drawn.rows), "old_logprobs": old}
            losses = ppo_loss(**now, advantages=advantages, clip_low=0.2, clip_high=0.2)
            (losses * weights).sum().backward()
            with roles.valuing() as values_of:
                foretold = {"values": values_of(drawn.rows), "old_values": values}
                (value_loss(**foretold, returns=returns, clip_eps=0.2) * weights).sum().backward()
            learner.update(step)
        rewards.append(drawn.rewards.mean().item())
        print(f"step {step:4d}  reward {rewards[-1]:.4f}  KL {kl.sum(-1).mean():.3f} nats")
    if s.out:
        save_policy(roles.finish(), chat, s.out)
    return rewards


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--prompts", "--reward", "--out"):
        parser.add_argument(name, required=name != "--out")
    numbers = {"kl-coef": 0.1, "lr": 1e-3, "rank": 8, "updates": 2, "batch-size": 16}
    for name, default in (numbers | {"max-new-tokens": 80, "steps": 20, "seed": 0}).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
