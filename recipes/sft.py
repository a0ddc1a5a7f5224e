"""Supervised fine-tuning from a file of chats: the whole method in one plain loop.

python recipes/sft.py --model base --data chats.jsonl --out sft
The same with checkpoints, LoRA and resume: preftune train sft.
"""

import argparse
from itertools import islice

from preftune.datasets import read_demonstrations
from preftune.engine.batches import Order
from preftune.engine.learner import Learner
from preftune.engine.logprobs import token_logprobs
from preftune.engine.settings import OptimizerSettings
from preftune.models.chat import load_chat
from preftune.models.load import load_policy


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the loss per own token of each step in nats."""
    chat, policy = load_chat(s.model), load_policy(s.model)
    rows = [(chat.encode(row.prompt, row.response),) for row in read_demonstrations(s.data)]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    learner = Learner.of(policy, Order.of(rows, settings, seed=s.seed), settings)
    policy.train()
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        found = token_logprobs(policy, [rows[number][0] for number in numbers])
        loss = -found.sums().sum() / found.lengths().sum()
        loss.backward()
        grad_norm = learner.update(step)["grad_norm"]
        losses.append(loss.item())
        print(f"step {step:4d}  loss {losses[-1]:.4f} nats  grad_norm {grad_norm:.3f}")
    if s.out:
        policy.save_pretrained(s.out)
        chat.save(s.out)
    return losses


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="where to start")
    parser.add_argument("--data", required=True, help="rows to imitate, any format preftune reads")
    parser.add_argument("--out", help="folder for the trained model")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=8, help="rows per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
