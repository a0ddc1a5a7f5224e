"""KTO on single responses marked desirable or not: the whole method in one plain loop.

python recipes/kto.py --model runs/sft/final --data thumbs.jsonl
The same with checkpoints, LoRA, pairs, BCO and resume: preftune train unpaired.
"""

import argparse
from dataclasses import replace
from itertools import islice

import torch

from preftune.datasets import read_unpaired
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.losses.unpaired import kto_kl, kto_loss
from preftune.models.chat import load_chat
from preftune.models.load import load_policy
from preftune.models.tokens import TokenSequence


def main(s: argparse.Namespace) -> list[float]:
    """Train, print one line per step, return the mean loss of each step."""
    chat, policy, records = load_chat(s.model), load_policy(s.model), read_unpaired(s.data)
    core, frozen = (Core.of(m, EngineSettings()) for m in (policy, load_policy(s.model)))
    rows = [(chat.encode(record.prompt, record.response),) for record in records]
    settings = OptimizerSettings(lr=s.lr, batch_size=s.batch_size, epochs=float(s.steps))
    order = Order.of(rows, settings, seed=s.seed)
    learner = Learner.of(policy, replace(order, lengths=(1,) * len(rows)), settings)  # all mixed
    losses: list[float] = []
    for step, numbers in enumerate(islice(learner.order.batches(), s.steps)):
        batch = [rows[number] for number in numbers]
        shifted = [(with_response(row[0], batch[i - 1][0]),) for i, row in enumerate(batch)]
        with torch.no_grad():
            gap = core.token_logprobs(shifted).sums() - frozen.token_logprobs(shifted).sums()
            kl, reference_logps = kto_kl(gap), frozen.token_logprobs(batch).sums()
        logratio = core.token_logprobs(batch).sums() - reference_logps
        loss = kto_loss(
            logratio=logratio,
            desirable=torch.tensor([records[number].desirable for number in numbers]),
            kl=kl,
            beta=s.beta,
            desirable_weight=1.0,
            undesirable_weight=1.0,
        ).mean()
        loss.backward()
        learner.update(step)
        losses.append(loss.item())
        print(f"step {step:4d}  loss {losses[-1]:.4f}  kl {kl.item():.3f} nats")
    if s.out:
        policy.save_pretrained(s.out)
        chat.save(s.out)
    return losses


def with_response(asked: TokenSequence, answered: TokenSequence) -> TokenSequence:
    """Return the prompt of one row with the response of another."""
    own = asked.own[: len(asked.prompt_ids)] + answered.own[len(answered.prompt_ids) :]
    return replace(asked, response_ids=answered.response_ids, own=own)


def settings() -> argparse.ArgumentParser:
    """Return all one can turn. Each is read above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the SFT model: start and reference")
    parser.add_argument("--data", required=True, help="unpaired rows, any format preftune reads")
    parser.add_argument("--out", help="folder for the tuned model")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8, help="responses per step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(settings().parse_args())
