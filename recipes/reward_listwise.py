"""A Plackett–Luce reward model from ranked lists: the whole method in one plain loop.

python recipes/reward_listwise.py --model runs/sft/final --data rankings.jsonl --out reward
The same with checkpoints, LoRA, ties and resume: preftune train reward --objective plackett-luce.
"""

import argparse
from itertools import islice

import torch

from preftune.datasets import read_rankings
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.scores import score_rows
from preftune.engine.settings import OptimizerSettings
from preftune.losses.listwise import plackett_luce_loss
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model, save_reward_model


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean loss of each step in nats."""
    chat, model = load_chat(s.model), new_reward_model(s.model, seed=s.seed)
    records = read_rankings(s.data)
    rows = [tuple(chat.encode(r.prompt, response) for response in r.responses) for r in records]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    learner = Learner.of(model, Order.of(rows, settings, seed=s.seed), settings)
    model.train()
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        batch = [rows[number] for number in numbers]
        longest = max(len(row) for row in batch)
        mask = torch.tensor([[k < len(row) for k in range(longest)] for row in batch])
        ranks = torch.zeros(mask.shape, dtype=torch.long).masked_scatter(
            mask, torch.tensor([rank for number in numbers for rank in records[number].ranks])
        )
        scores = torch.zeros(mask.shape).masked_scatter(mask, score_rows(model, batch))
        loss = plackett_luce_loss(scores=scores, ranks=ranks, mask=mask).mean()
        loss.backward()
        learner.update(step)
        losses.append(loss.item())
        best = (scores.masked_fill(~mask, -torch.inf).argmax(-1) == 0).float().mean()
        print(f"step {step:4d}  loss {losses[-1]:.4f} nats  best on top {best:.2f}")
    if s.out:
        save_reward_model(model, chat, s.out)
    return losses


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="decoder or encoder to start from")
    parser.add_argument("--data", required=True, help="ranked lists, any format preftune reads")
    parser.add_argument("--out", help="folder for the reward model")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="lists per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
