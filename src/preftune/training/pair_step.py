"""One step on pairs: log-probs of both sides, the loss, the gradient; for every method on pairs."""

from collections.abc import Sequence

import torch

from preftune.engine.core import Core
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.settings import EngineSettings
from preftune.errors import HealthError
from preftune.training.diagnostics import PairFigures, StepFigures, drift
from preftune.training.loss_sum import LossSum
from preftune.training.pair_inputs import PairInputs, StepState, pair_inputs
from preftune.training.rows import PairRow
from preftune.training.running import ReferenceOf

STEP_0_TOLERANCE = 1e-5  # nats, and share of the loss


def backward(
    core: Core,
    rows: Sequence[PairRow],
    numbers: Sequence[int],
    reference: ReferenceOf | None,
    loss: LossSum,
    state: StepState,
    engine: EngineSettings,
) -> StepFigures:
    """Leave the gradient of one step in the policy; return what the step gave.

    The pair losses are summed and divided by the weight of the whole step, the NLL of the chosen
    responses by their number of tokens, so that micro-batches of any size give the same gradient.

    Args:
        core: the model being tuned.
        rows: all pairs of the run.
        numbers: which of them make up the step.
        reference: log-probs of chosen and rejected under the reference; None without one.
        loss: the objective, its settings, the NLL weight.
        state: the step's number, the run's seed, running values.
        engine: how many tokens go into one forward.

    Raises:
        HealthError: step 0, and policy and reference differ.
    """
    batch = [rows[number] for number in numbers]
    weight = sum(row.weight for row in batch)
    chosen_tokens = sum(row.chosen.own_length for row in batch)
    preference_loss = nll = moved = 0.0
    parts = []
    for micro in micro_batches([stream_length(row.sequences) for row in batch], engine.token_limit):
        part, places = [batch[i] for i in micro], [numbers[i] for i in micro]
        p = inputs_of(core, part, places, reference, loss, state)
        losses = loss.losses(p)
        if state.step == 0:
            check_step_0(p, losses, loss)
        preference_part = (p.weights * losses).sum() / weight
        nll_part = -p.chosen.logps.sum() / chosen_tokens
        (preference_part + loss.nll_weight * nll_part).backward()
        preference_loss += preference_part.item()
        nll += nll_part.item()
        moved += float(drift(p).sum()) if loss.has_reference else 0.0
        parts.append(PairFigures.of(p, loss))
    return StepFigures(
        preference_loss=preference_loss,
        nll=nll,
        nll_weight=loss.nll_weight,
        pairs=PairFigures.joined(parts),
        has_reference=loss.has_reference,
        drift=moved / len(batch),
    )


def inputs_of(
    core: Core,
    batch: Sequence[PairRow],
    numbers: Sequence[int],
    reference: ReferenceOf | None,
    loss: LossSum,
    state: StepState,
) -> PairInputs:
    """Return what the losses look at: chosen and rejected of a batch, from one forward.

    Args:
        core: the model being tuned.
        batch: B pairs.
        numbers: the row number of each.
        reference: log-probs of rows under the reference; None without one.
        loss: says what else it needs.
        state: the step.
    """
    frozen = reference(numbers) if reference else None
    policy = core.token_logprobs(
        [row.sequences for row in batch], collisions=loss.weighting == "wpo"
    )
    return pair_inputs(batch, policy, frozen, numbers=numbers, state=state)


def check_step_0(p: PairInputs, losses: torch.Tensor, loss: LossSum) -> None:
    """Stop unless policy == reference: log ratios of 0, and the loss that they must give.

    Raises:
        HealthError: says by how much they differ.
    """
    start = loss.start(p)
    if not loss.has_reference:
        return
    ratios = torch.cat([p.chosen.logratio, p.rejected.logratio])
    worst = ratios.detach().abs().max().item()
    mean = ((p.weights * losses).sum() / p.weights.sum()).item()
    if not worst <= STEP_0_TOLERANCE:
        raise HealthError(
            f"step 0: policy and reference differ by {worst:.2e} nats, loss {mean:.6f}. "
            "Use a new --out; if it comes again, this model's forward is not reproducible."
        )
    if start is None:
        return
    expected = ((p.weights * start).sum() / p.weights.sum()).item()
    if not abs(mean - expected) <= STEP_0_TOLERANCE * max(1.0, abs(expected)):
        raise HealthError(
            f"step 0: loss {loss} is {mean:.6f}, not the {expected:.6f} that it starts at. "
            "Report this with the run's settings.yaml."
        )
