"""Figures of a model on rows that it is not trained on, measured while it trains."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from preftune.engine.core import Core, head_of, spread
from preftune.engine.head import CHUNK_ELEMENTS, Head, head_logprobs
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.modes import evaluating
from preftune.graders.scorer import Scorer
from preftune.inference.rollouts import RolloutSource
from preftune.models.chat import Chat
from preftune.models.tokens import TokenSequence
from preftune.training.diagnostics import PairFigures, drift
from preftune.training.loss_sum import LossSum
from preftune.training.observer import Validate
from preftune.training.pair_inputs import StepState
from preftune.training.pair_step import inputs_of
from preftune.training.rollout_batch import PromptRow, scored_by, seed_of
from preftune.training.rows import DemonstrationRow, PairRow
from preftune.training.running import ReferenceOf, state_of

EVAL_BATCH = 64  # pairs in one forward without gradient


def logps_and_hits(
    core: Core, rows: Sequence[Sequence[TokenSequence]]
) -> tuple[Float[Tensor, " B"], int | None]:
    """Return the log-prob of each sequence, and how many own tokens were the likeliest there.

    A model of certain right answers has as many hits as own tokens. None where the model's head is
    not read by us: then nobody sees which token is the likeliest.
    """
    if not core.own_head:
        return core.token_logprobs(rows).sums(), None
    if not core.checked:
        core.checked = True
        core.check(rows)
    layout, read = core.states(rows)
    head = replace(head_of(core.model), temperature=core.temperature)
    logprobs = head_logprobs(head, read, layout.targets)
    return spread(logprobs, layout).sum(-1), hits(head, read, layout.targets)


@torch.no_grad()
def hits(head: Head, hidden: Tensor, targets: Tensor) -> int:
    """Return for how many hidden states `[N D]` the target `[N]` is the likeliest token."""
    size = max(1, CHUNK_ELEMENTS // len(head.weight))
    found = 0
    for begin in range(0, len(hidden), size):
        likeliest = head.logits(hidden[begin : begin + size]).argmax(-1)
        found += int((likeliest == targets[begin : begin + size]).sum())
    return found


def on_demonstrations(
    core: Core, rows: Sequence[DemonstrationRow], *, micro_tokens: int
) -> Validate:
    """Return what measures the loss and the accuracy of some of these rows."""

    def validate(numbers: Sequence[int], _step: int) -> dict[str, float]:
        chosen = [rows[number] for number in numbers]
        return demonstration_figures(core, chosen, micro_tokens=micro_tokens)

    return validate


def on_pairs(
    core: Core,
    rows: Sequence[PairRow],
    reference: ReferenceOf | None,
    loss: LossSum,
    extra: dict[str, Tensor],
    *,
    seed: int,
) -> Validate:
    """Return what measures some of these pairs; `extra` holds the running values of the loss."""

    def validate(numbers: Sequence[int], step: int) -> dict[str, float]:
        state = state_of(extra, step=step, seed=seed)
        return preference_figures(core, rows, numbers, reference, loss, state)

    return validate


def on_prompts(
    source: RolloutSource,
    scorer: Scorer,
    chat: Chat,
    rows: Sequence[PromptRow],
    *,
    samples: int,
    seed: int,
) -> Validate:
    """Return what measures the reward of fresh responses to some of these prompts.

    Args:
        source: draws.
        scorer: gives rewards.
        chat: turns tokens into text.
        rows: prompts.
        samples: responses to each.
        seed: of the run.
    """

    def validate(numbers: Sequence[int], step: int) -> dict[str, float]:
        owners = [(number, sample) for number in numbers for sample in range(samples)]
        seeds = [seed_of(seed, "valid", step, *owner) for owner in owners]
        drawn = source.draw([rows[number].ids for number, _ in owners], seeds)
        texts = [chat.decode(rollout.response_ids)[0] for rollout in drawn]
        found = scored_by(scorer, [rows[number].prompt for number, _ in owners], texts)
        scores = [score for score in found if score is not None]
        mean = {"mean_reward": fmean(scores)} if scores else {}
        return {**mean, "mean_unresponsive_rewards": 1 - len(scores) / len(found)}

    return validate


def demonstration_figures(
    core: Core, rows: Sequence[DemonstrationRow], *, micro_tokens: int
) -> dict[str, float]:
    """Return the weighted NLL per own token in nats, and the share of own tokens that were right.

    Args:
        core: the model.
        rows: the rows to measure on, at least one.
        micro_tokens: most tokens in one forward.
    """
    loss = weighted = 0.0
    right: list[int | None] = []
    tokens = sum(row.sequence.own_length for row in rows)
    with evaluating(core.model):
        for part in micro_batches([stream_length(row.sequences) for row in rows], micro_tokens):
            micro = [rows[place] for place in part]
            logps, found = logps_and_hits(core, [row.sequences for row in micro])
            weights = logps.new_tensor([row.weight for row in micro])
            loss -= float((weights * logps).sum())
            weighted += sum(row.weight * row.sequence.own_length for row in micro)
            right.append(found)
    known = [found for found in right if found is not None]
    accuracy = {"mean_token_accuracy": sum(known) / tokens} if known else {}
    return {"loss": loss / weighted, **accuracy}


def preference_figures(
    core: Core,
    rows: Sequence[PairRow],
    numbers: Sequence[int],
    reference: ReferenceOf | None,
    loss: LossSum,
    state: StepState,
) -> dict[str, float]:
    """Return loss, rewards, log-probs, KL and lengths of pairs; means, in nats and tokens.

    Args:
        core: the model.
        rows: all validation pairs.
        numbers: which of them.
        reference: log-probs of rows under the model as it started; None for a loss without one.
        loss: the objective.
        state: running values of the loss.
    """
    parts, kl, total, weight, nll, tokens = [], 0.0, 0.0, 0.0, 0.0, 0
    with evaluating(core.model):
        for begin in range(0, len(numbers), EVAL_BATCH):
            places = numbers[begin : begin + EVAL_BATCH]
            p = inputs_of(core, [rows[n] for n in places], places, reference, loss, state)
            total += float((p.weights * loss.losses(p)).sum())
            weight += float(p.weights.sum())
            nll -= float(p.chosen.logps.sum())
            tokens += int(p.chosen.counts.sum())
            kl += float(drift(p).sum())
            parts.append(PairFigures.of(p, loss))
    pairs = PairFigures.joined(parts)
    figures = {"loss": total / weight + loss.nll_weight * nll / tokens, **pair_columns(pairs)}
    return figures | ({"kl": kl / len(numbers)} if loss.has_reference else {})


def pair_columns(pairs: PairFigures) -> dict[str, float]:
    """Return what a job reports of pairs besides their loss: means over the pairs."""
    right = (pairs.chosen_reward > pairs.rejected_reward).float()
    columns = {
        "reward_accuracy": right,
        "reward_margin": pairs.chosen_reward - pairs.rejected_reward,
        "chosen_reward": pairs.chosen_reward,
        "rejected_reward": pairs.rejected_reward,
        "chosen_logps": pairs.chosen_logps,
        "rejected_logps": pairs.rejected_logps,
        "chosen_length_tokens": pairs.chosen_lengths,
        "rejected_length_tokens": pairs.rejected_lengths,
    }
    return {name: values.mean().item() for name, values in columns.items()}
