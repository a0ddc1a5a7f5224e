"""ORPO from a file of pairs: imitate chosen and part its odds from rejected's, in one plain loop.

python recipes/orpo.py --model base --pairs pairs.jsonl
The same with checkpoints, LoRA, health and resume: preftune train direct --loss orpo.
"""

import argparse
from itertools import islice

from preftune.datasets import read_pairs
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.losses.direct import logistic_loss
from preftune.losses.reference_free import orpo_log_odds
from preftune.models.chat import load_chat
from preftune.models.load import load_policy


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the ORPO loss of each step in nats."""
    chat, model = load_chat(s.model), load_policy(s.model)
    rows = [
        (chat.encode(pair.prompt, pair.chosen), chat.encode(pair.prompt, pair.rejected))
        for pair in read_pairs(s.pairs)
    ]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    learner = Learner.of(model, Order.of(rows, settings, seed=s.seed), settings)
    policy = Core.of(model, EngineSettings())
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        found = policy.token_logprobs([rows[number] for number in numbers])
        logps, lengths = found.sums(), found.lengths().float()
        log_odds = orpo_log_odds(
            chosen_logps=logps[0::2],
            rejected_logps=logps[1::2],
            chosen_lengths=lengths[0::2],
            rejected_lengths=lengths[1::2],
        )
        nll = -logps[0::2].sum() / lengths[0::2].sum()
        loss = nll + s.odds_weight * logistic_loss(log_odds).mean()
        loss.backward()
        grad_norm = learner.update(step)["grad_norm"]
        losses.append(loss.item())
        print(f"step {step:4d}  loss {losses[-1]:.4f} nats  grad_norm {grad_norm:.3f}")
    if s.out:
        model.save_pretrained(s.out)
        chat.save(s.out)
    return losses


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="base or SFT model to start from")
    parser.add_argument("--pairs", required=True, help="pairs in any format preftune reads")
    parser.add_argument("--out", help="folder for the tuned model")
    parser.add_argument("--odds-weight", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
