"""Direct preference optimisation: raise chosen above rejected, tied to a frozen reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from preftune.datasets import dataset_hash, read_pairs
from preftune.engine.batches import Order, chunks
from preftune.engine.core import Core
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.logprobs import TokenLogprobs
from preftune.engine.reference import Reference
from preftune.errors import HealthError
from preftune.losses.direct import dpo_loss, offset_dpo_loss, preference_margin, soft_dpo_loss
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.settings import checked
from preftune.training.probe import Probe
from preftune.training.rows import PairRow, pair_rows
from preftune.training.run import Run
from preftune.training.settings import DirectSettings

STEP_0_TOLERANCE = 1e-5  # nats
EVAL_BATCH = 64  # pairs in one forward without gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogps:
    """Summed log-probs of the chosen and rejected responses of B pairs, `[B]` each, in nats."""

    chosen: Tensor
    rejected: Tensor


def train(settings: DirectSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    The reference is the model as it starts: with LoRA the same weights with the adapter off.

    Raises:
        HealthError: at step 0 policy and reference differ, or the loss is not a number.
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    pairs = read_pairs(s.data)
    held_out = read_pairs(s.held_out) if s.held_out else []
    chat, policy = load_chat(s.model), load_policy(s.model)
    inputs = {"data": dataset_hash(pairs), "model": model_fingerprint(policy, chat)}
    with Run.open(s, method="direct", inputs=inputs) as run:
        if run.finished:
            return run.final
        rows = run.rows_that_fit(pair_rows(pairs, chat), pairs, s.length, chat)
        held_rows = run.rows_that_fit(
            pair_rows(held_out, chat), held_out, s.length, chat, name="held_out"
        )
        order = Order.of([row.sequences for row in rows], s.optimizer, seed=s.run.seed)
        core = run.core(policy, s.engine)
        reference = run.reference(
            core,
            rows,
            order.micro_batches(s.engine.micro_tokens),
            how=f"{s.run.seed}/{s.optimizer.batch_size}/{s.engine}",
        )
        held_reference = run.reference(
            core,
            held_rows,
            chunks(range(len(held_rows)), EVAL_BATCH),
            how=str(s.engine),
            name="held_out",
        )
        probe = Probe.of(
            policy,
            chat,
            [pair.prompt for pair in pairs],
            s.probe,
            seed=s.run.seed,
            keep_reference=not s.lora.lora_rank,
        )
        policy = add_lora(policy, s.lora, seed=s.run.seed) if s.lora.lora_rank else policy
        learner = Learner.of(policy, order, s.optimizer)
        core = run.core(policy, s.engine)
        for step, numbers in run.steps(learner):
            adapter_dropout_only(policy)
            batch = [rows[number] for number in numbers]
            metrics = backward(core, batch, reference.of(numbers), s)
            if step == 0:
                check_step_0(metrics)
            run.update(learner, step=step, metrics=metrics)
            run.probe(probe, policy, step=step)
        policy.eval()
        if held_rows:
            run.report_held_out(
                trained_on=pairs,
                pairs=[held_out[row.number] for row in held_rows],
                margins=margins(core, held_rows, held_reference),
            )
        return run.publish(lambda folder: save_policy(policy, chat, folder))


def backward(
    core: Core, batch: Sequence[PairRow], reference: TokenLogprobs, s: DirectSettings
) -> dict[str, float]:
    """Leave the gradient of one step in the policy; return the step's metrics.

    The pair losses are summed and divided by the weight of the whole step, the NLL of the chosen
    responses by their number of tokens, so that micro-batches of any size give the same gradient.

    Args:
        core: the model being tuned.
        batch: the B pairs of the step.
        reference: log-probs of chosen and rejected under the reference.
        s: beta, the NLL weight, what the labels mean, the micro-batch.
    """
    total = sum(row.weight for row in batch)
    chosen_tokens = sum(row.chosen.own_length for row in batch)
    sums = torch.zeros(6)
    ref_logps = reference.sums().reshape(-1, 2)
    lengths = [stream_length(row.sequences) for row in batch]
    for micro in micro_batches(lengths, s.engine.micro_tokens):
        rows = [batch[i] for i in micro]
        logps = pair_logps(core, rows)
        ref = PairLogps(chosen=ref_logps[micro, 0], rejected=ref_logps[micro, 1])
        weights = ref.chosen.new_tensor([row.weight for row in rows])
        preference = (weights * pair_losses(logps, ref, rows, s)).sum() / total
        nll = -logps.chosen.sum() / chosen_tokens
        (preference + s.nll_weight * nll).backward()
        chosen, rejected = logps.chosen - ref.chosen, logps.rejected - ref.rejected
        right = (chosen > rejected).float()
        sums += torch.stack(
            [preference, nll, right.sum(), chosen.sum(), rejected.sum(), (chosen - rejected).sum()]
        ).detach()
    preference_loss, nll_loss, *counted = sums.tolist()
    names = ("accuracy", "chosen_logratio", "rejected_logratio", "margin")
    means = {name: value / len(batch) for name, value in zip(names, counted, strict=True)}
    loss = preference_loss + s.nll_weight * nll_loss
    return {"loss": loss, "preference_loss": preference_loss, "nll": nll_loss, **means}


def pair_logps(core: Core, rows: Sequence[PairRow]) -> PairLogps:
    """Return the summed log-probs of chosen and rejected, both from one forward."""
    sums = core.token_logprobs([row.sequences for row in rows]).sums()
    return PairLogps(chosen=sums[0::2], rejected=sums[1::2])


def pair_losses(
    policy: PairLogps, reference: PairLogps, rows: Sequence[PairRow], s: DirectSettings
) -> Tensor:
    """Return the loss of each pair in nats, with what its raters said as soft label or offset."""
    four = {
        "policy_chosen_logps": policy.chosen,
        "policy_rejected_logps": policy.rejected,
        "reference_chosen_logps": reference.chosen,
        "reference_rejected_logps": reference.rejected,
    }
    if s.label == "soft":
        probability = policy.chosen.new_tensor([row.probability for row in rows])
        return soft_dpo_loss(margin=preference_margin(**four), probability=probability, beta=s.beta)
    if s.label == "offset":
        offset = s.offset_per_strength * policy.chosen.new_tensor([r.strength or 0 for r in rows])
        return offset_dpo_loss(margin=preference_margin(**four), offset=offset, beta=s.beta)
    return dpo_loss(**four, beta=s.beta)


@torch.no_grad()
def margins(core: Core, rows: Sequence[PairRow], reference: Reference) -> list[float]:
    """Return how much more than the reference the policy prefers chosen, in nats per pair."""
    parts = []
    for micro in chunks(range(len(rows)), EVAL_BATCH):
        logps = pair_logps(core, [rows[i] for i in micro])
        ref = reference.of(micro).sums().reshape(-1, 2)
        parts.append(logps.chosen - logps.rejected - ref[:, 0] + ref[:, 1])
    return torch.cat(parts).tolist()


def check_step_0(metrics: dict[str, float]) -> None:
    """Stop unless policy == reference: every log ratio 0 before the first update."""
    worst = max(abs(metrics["chosen_logratio"]), abs(metrics["rejected_logratio"]))
    if not worst <= STEP_0_TOLERANCE:
        raise HealthError(
            f"step 0: policy and reference differ by {worst:.2e} nats, loss {metrics['loss']:.6f}. "
            "Use a new --out; if it comes again, this model's forward is not reproducible."
        )
