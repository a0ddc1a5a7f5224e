"""A Bradley–Terry reward model from a file of pairs: the whole method in one plain loop.

python recipes/reward.py --model runs/sft/final --pairs pairs.jsonl --out reward
The same with checkpoints, LoRA, margins and resume: preftune train reward.
"""

import argparse
from itertools import islice

from preftune.datasets import read_pairs
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.scores import score_rows
from preftune.engine.settings import OptimizerSettings
from preftune.losses.pairwise import bradley_terry_loss
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean loss of each step in nats."""
    chat, model = load_chat(s.model), new_reward_model(s.model, seed=s.seed)
    rows = [
        (chat.encode(pair.prompt, pair.chosen), chat.encode(pair.prompt, pair.rejected))
        for pair in read_pairs(s.pairs)
    ]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    learner = Learner.of(model, Order.of(rows, settings, seed=s.seed), settings)
    model.train()
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        rewards = score_rows(model, [rows[number] for number in numbers])
        chosen, rejected = rewards[0::2], rewards[1::2]
        loss = bradley_terry_loss(chosen_rewards=chosen, rejected_rewards=rejected).mean()
        loss.backward()
        learner.update(step)
        losses.append(loss.item())
        accuracy = (chosen > rejected).float().mean()
        print(f"step {step:4d}  loss {losses[-1]:.4f} nats  accuracy {accuracy:.2f}")
    if s.out:
        save_reward_model(model, chat, s.out)
    return losses


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="decoder or encoder to start from")
    parser.add_argument("--pairs", required=True, help="pairs in any format preftune reads")
    parser.add_argument("--out", help="folder for the reward model")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
