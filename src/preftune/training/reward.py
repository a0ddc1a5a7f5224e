"""A Bradley–Terry reward model: one score per response, from pairs of which one is better."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from preftune.datasets import dataset_hash, read_pairs
from preftune.engine.batches import Order, chunks
from preftune.engine.learner import Learner
from preftune.losses.pairwise import bradley_terry_loss, centring_penalty, soft_bradley_terry_loss
from preftune.models.chat import load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.heads import RewardModel, new_reward_model, save_reward_model
from preftune.settings import checked
from preftune.training.rows import PairRow, pair_rows
from preftune.training.run import Run
from preftune.training.settings import RewardSettings

SCORE_BATCH = 64  # pairs scored in one forward
NORMALISE_ON = 512  # training pairs that mean and standard deviation are taken over


def train(settings: RewardSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the reward model.

    Scores are normalised afterwards: mean 0, standard deviation 1 over the responses of the first
    512 training pairs.

    Raises:
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    pairs = read_pairs(s.data)
    held_out = read_pairs(s.held_out) if s.held_out else []
    chat = load_chat(s.model)
    model = new_reward_model(s.model, seed=s.run.seed, lora=s.lora)
    inputs = {"data": dataset_hash(pairs), "model": model_fingerprint(model, chat)}
    with Run.open(s, method="reward", inputs=inputs) as run:
        if run.finished:
            return run.final
        rows = run.rows_that_fit(pair_rows(pairs, chat), pairs, s.length, chat)
        order = Order.of([row.sequences for row in rows], s.optimizer, seed=s.run.seed)
        learner = Learner.of(model, order, s.optimizer)
        model.train()
        for step, numbers in run.steps(learner):
            metrics = backward(model, [rows[number] for number in numbers], s)
            run.update(learner, step=step, metrics=metrics)
        model.eval()
        model.set_normalisation(*mean_and_std(model, rows[:NORMALISE_ON]))
        if held_out:
            held_rows = run.rows_that_fit(
                pair_rows(held_out, chat), held_out, s.length, chat, name="held_out"
            )
            run.report_held_out(
                trained_on=pairs,
                pairs=[held_out[row.number] for row in held_rows],
                margins=score_gaps(model, held_rows),
            )
        return run.publish(lambda folder: save_reward_model(model, chat, folder))


def backward(model: RewardModel, batch: Sequence[PairRow], s: RewardSettings) -> dict[str, float]:
    """Leave the gradient of one step in the model; return the step's metrics.

    The loss is the weighted sum over pairs divided by the weight of the whole step, so that
    micro-batches of any size give the same gradient.
    """
    total = sum(row.weight for row in batch)
    sums = torch.zeros(5)
    for micro in chunks(batch, s.optimizer.micro_batch):
        rewards = model([seq for row in micro for seq in row.sequences])
        chosen, rejected = rewards[0::2], rewards[1::2]
        weights = rewards.new_tensor([row.weight for row in micro])
        losses = pair_losses(chosen, rejected, micro, s)
        part = (weights * losses).sum() / total
        part.backward()
        right = (chosen > rejected).float()
        sums += torch.stack(
            [part, right.sum(), chosen.sum(), rejected.sum(), (chosen - rejected).sum()]
        ).detach()
    loss, right, *means = sums.tolist()
    names = ("accuracy", "chosen_reward", "rejected_reward", "reward_gap")
    return {"loss": loss} | {
        name: value / len(batch) for name, value in zip(names, (right, *means), strict=True)
    }


def pair_losses(
    chosen: Tensor, rejected: Tensor, rows: Sequence[PairRow], s: RewardSettings
) -> Tensor:
    """Return the loss of each pair in nats, with what its raters said as margin or soft label."""
    scores = {"chosen_rewards": chosen, "rejected_rewards": rejected}
    if s.label == "soft":
        probability = chosen.new_tensor([row.probability for row in rows])
        losses = soft_bradley_terry_loss(**scores, probability=probability)
    elif s.label == "margin":
        strength = chosen.new_tensor([row.strength or 0 for row in rows])
        losses = bradley_terry_loss(**scores, margin=s.margin_per_strength * strength)
    else:
        losses = bradley_terry_loss(**scores)
    return losses + s.centring * centring_penalty(**scores)


@torch.no_grad()
def scores_of(model: RewardModel, rows: Sequence[PairRow]) -> Tensor:
    """Return the scores of chosen and rejected of each row, `[N 2]`."""
    parts = [
        model([sequence for row in micro for sequence in row.sequences]).reshape(-1, 2)
        for micro in chunks(rows, SCORE_BATCH)
    ]
    return torch.cat(parts)


def mean_and_std(model: RewardModel, rows: Sequence[PairRow]) -> tuple[float, float]:
    """Return mean and population standard deviation of the raw scores of all responses."""
    scores = scores_of(model, rows).double()
    return scores.mean().item(), scores.std(correction=0).clamp_min(1e-8).item()


def score_gaps(model: RewardModel, rows: Sequence[PairRow]) -> list[float]:
    """Return by how much the chosen response of each row scores above the rejected one."""
    scores = scores_of(model, rows)
    return (scores[:, 0] - scores[:, 1]).tolist()
