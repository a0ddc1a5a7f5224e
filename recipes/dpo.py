"""Direct preference optimisation from a file of pairs: the whole method in one plain loop.

python recipes/dpo.py --model runs/sft/final --pairs pairs.jsonl
The same with checkpoints, LoRA, health and resume: preftune train direct.
"""

import argparse
from itertools import islice

import torch

from preftune.datasets import read_pairs
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.losses.direct import dpo_loss
from preftune.models.chat import load_chat
from preftune.models.load import load_policy


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean DPO loss of each step in nats."""
    chat, model, start = load_chat(s.model), load_policy(s.model), load_policy(s.model)
    rows = [
        (chat.encode(pair.prompt, pair.chosen), chat.encode(pair.prompt, pair.rejected))
        for pair in read_pairs(s.pairs)
    ]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    learner = Learner.of(model, Order.of(rows, settings, seed=s.seed), settings)
    policy, reference = Core.of(model, EngineSettings()), Core.of(start, EngineSettings())
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        batch = [rows[number] for number in numbers]
        policy_logps = policy.token_logprobs(batch).sums()
        with torch.no_grad():
            reference_logps = reference.token_logprobs(batch).sums()
        loss = dpo_loss(
            policy_chosen_logps=policy_logps[0::2],
            policy_rejected_logps=policy_logps[1::2],
            reference_chosen_logps=reference_logps[0::2],
            reference_rejected_logps=reference_logps[1::2],
            beta=s.beta,
        ).mean()
        chosen_tokens = sum(chosen.own_length for chosen, _ in batch)
        nll = -policy_logps[0::2].sum() / chosen_tokens  # keeps the chosen responses likely
        (loss + s.nll_weight * nll).backward()
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
    parser.add_argument("--model", required=True, help="the SFT model: start and reference")
    parser.add_argument("--pairs", required=True, help="pairs in any format preftune reads")
    parser.add_argument("--out", help="folder for the tuned model")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--nll-weight", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
