"""Direct preference optimisation on ranked lists: Plackett–Luce over K responses to one prompt."""

from collections.abc import Sequence
from pathlib import Path

import torch

from preftune.datasets import dataset_hash, read_rankings
from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.engine.reference import Reference
from preftune.errors import DataError
from preftune.losses.listwise import pl_dpo_loss
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.settings import checked
from preftune.training.facts import lean_of
from preftune.training.listwise_rows import (
    Lists,
    RankedRow,
    in_lists,
    one_pair_each,
    ranked_rows,
    read_held_out,
    rows_that_fit,
)
from preftune.training.logratios import HeldOutPairs, check_step_0, logratios, reference_of
from preftune.training.method_settings import ListwiseSettings
from preftune.training.probe import Probe
from preftune.training.run import Run
from preftune.types import RankedList


def train(settings: ListwiseSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    The reference is the model as it starts: with LoRA the same weights with the adapter off. Lists
    of two are trained exactly as pairs are by DPO.

    Raises:
        HealthError: at step 0 policy and reference differ, or the loss is not a number.
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    records = read_rankings(s.data)
    refuse_without_order(records, s)
    kept_out = read_held_out(s.held_out)
    chat, policy = load_chat(s.model), load_policy(s.model, bits=s.lora.base_bits)
    inputs = {"data": dataset_hash(records), "model": model_fingerprint(policy, chat)}
    with Run.open(s, method="listwise", inputs=inputs) as run:
        if run.finished:
            return run.final
        rows = rows_that_fit(run, ranked_rows(records, chat), records, s.length, chat)
        s = run.settled(s, rows)
        order = Order.of((row.sequences for row in rows), s.optimizer, seed=s.run.seed)
        policy = add_lora(policy, s.lora, seed=s.run.seed) if s.lora.lora_rank else policy
        learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
        core = run.core(policy, s.engine)
        first_pass = order.micro_batches(s.engine.token_limit)
        reference = reference_of(run, core, rows, first_pass, s)
        held_out = HeldOutPairs.of(run, core, chat, kept_out, s) if kept_out else None
        probe = Probe.of(
            policy,
            chat,
            [record.prompt for record in records],
            s.probe,
            seed=s.run.seed,
            keep_reference=not s.lora.lora_rank,
        )
        for step, numbers in run.steps(learner):
            adapter_dropout_only(policy)
            batch = [rows[number] for number in numbers]
            metrics = backward(core, batch, numbers, reference, s)
            if step == 0:
                check_step_0(metrics)
            run.update(learner, step=step, metrics=metrics)
            run.probe(probe, policy, step=step)
        policy.eval()
        if held_out:
            leans = map(lean_of, one_pair_each(records))
            held_out.report(run, core, trained_on=leans)
        whole = learner.masters.finish()
        return run.publish(lambda folder: save_policy(whole, chat, folder))


def backward(
    core: Core,
    batch: Sequence[RankedRow],
    numbers: Sequence[int],
    reference: Reference,
    s: ListwiseSettings,
) -> dict[str, float]:
    """Leave the gradient of one step in the policy; return the step's metrics.

    The losses of the lists are summed and divided by the weight of the whole step, so that
    micro-batches of any size give the same gradient.

    Args:
        core: the model being tuned.
        batch: the lists of the step.
        numbers: their row numbers.
        reference: log-probs of all rows under the reference.
        s: beta and the micro-batch.
    """
    total = sum(row.weight for row in batch)
    losses, found = 0.0, []
    lengths = [stream_length(row.sequences) for row in batch]
    for micro in micro_batches(lengths, s.engine.token_limit):
        rows = [batch[i] for i in micro]
        logratio = logratios(core, rows, reference.of([numbers[i] for i in micro]))
        lists = in_lists(logratio, [row.ranks for row in rows])
        each = pl_dpo_loss(logratio=lists.values, ranks=lists.ranks, mask=lists.mask, beta=s.beta)
        loss = (logratio.new_tensor([row.weight for row in rows]) * each).sum() / total
        loss.backward()
        losses += loss.item()
        found.append(logratio.detach().cpu())
    lists = in_lists(torch.cat(found), [row.ranks for row in batch])
    return {"loss": losses, **measured(lists, beta=s.beta)}


def measured(lists: Lists, *, beta: float) -> dict[str, float]:
    """Return what a step says of its lists; `chosen` is the best response, `rejected` the last.

    Accuracy is the share of comparisons, not tied, in which the better response has gained more.
    """
    compared = lists.comparisons()
    right = (compared.first > compared.second)[~compared.tied]
    last = lists.mask.sum(-1, keepdim=True) - 1
    chosen = lists.values[:, 0].mean().item()
    rejected = lists.values.gather(-1, last).mean().item()
    return {
        "accuracy": right.float().mean().item(),
        "chosen_logratio": chosen,
        "rejected_logratio": rejected,
        "margin": chosen - rejected,
        "chosen_reward": beta * chosen,
        "rejected_reward": beta * rejected,
        "largest_logratio": lists.values.abs().max().item(),
    }


def refuse_without_order(records: Sequence[RankedList], s: ListwiseSettings) -> None:
    """Refuse lists whose responses are all tied: there is nothing to prefer.

    Raises:
        DataError: with their count and the first of them.
    """
    tied = [record for record in records if len(set(record.ranks)) == 1]
    if tied:
        raise DataError(
            f"{s.data}: {len(tied)} of {len(records)} lists put no response above another, the "
            f"first is {tied[0].id}. Leave them out."
        )
