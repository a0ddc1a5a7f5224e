"""Tuning on single responses, each marked desirable or not: KTO, BCO, unpaired APO-zero."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from preftune.datasets import convert, dataset_hash, read_pairs
from preftune.engine.batches import Order, epoch_batches
from preftune.engine.core import Core
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.engine.reference import Reference
from preftune.errors import DataError, SettingsError
from preftune.losses.unpaired import apo_zero_unpaired_loss, bco_loss, kto_kl, kto_loss
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import Chat, load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.models.tokens import TokenSequence
from preftune.settings import checked
from preftune.training.facts import lean_of
from preftune.training.listwise_rows import (
    SingleRow,
    read_either,
    rows_that_fit,
    single_rows,
    without_start,
)
from preftune.training.logratios import HeldOutPairs, check_step_0, logratios, reference_of
from preftune.training.method_settings import UnpairedSettings
from preftune.training.probe import Probe
from preftune.training.rows import model_limit
from preftune.training.run import Run
from preftune.types import PreferencePair, UnpairedRow

BALANCE = (1.0, 4 / 3)  # of desirable_weight * desirable rows to undesirable_weight * the others
REWARDS = "rewards"  # in Learner.extra: sum and number of all rewards so far, fp64


def train(settings: UnpairedSettings) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    A file of pairs gives two rows each: chosen is desirable, rejected is not. The reference is the
    model as it starts: with LoRA the same weights with the adapter off.

    Raises:
        HealthError: at step 0 policy and reference differ, or the loss is not a number.
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    records = read_either(s.data, UnpairedRow, PreferencePair)
    singles, pairs = unpaired_records(records, s)
    chat, policy = load_chat(s.model), load_policy(s.model, bits=s.lora.base_bits)
    inputs = {"data": dataset_hash(records), "model": model_fingerprint(policy, chat)}
    with Run.open(s, method="unpaired", inputs=inputs) as run:
        if run.finished:
            return run.final
        rows = rows_that_fit(run, single_rows(singles, chat), singles, s.length, chat)
        s, order = run.settled(s, rows), mixed_order(rows, s)
        policy = add_lora(policy, s.lora, seed=s.run.seed) if s.lora.lora_rank else policy
        learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
        core = run.core(policy, s.engine)
        reference = reference_of(run, core, rows, first_pass(order, rows, s), s)
        mismatched = Mismatched.of(run, core, rows, order, chat, s) if s.loss == "kto" else None
        held_out = (
            HeldOutPairs.of(run, core, chat, read_pairs(s.held_out), s) if s.held_out else None
        )
        probe = Probe.of(
            policy,
            chat,
            [record.prompt for record in records],
            s.probe,
            seed=s.run.seed,
            keep_reference=not s.lora.lora_rank,
        )
        learner.extra[REWARDS] = torch.zeros(2, dtype=torch.float64)
        for step, numbers in run.steps(learner):
            adapter_dropout_only(policy)
            point = reference_point(core, learner, mismatched, step, s)
            batch = [rows[number] for number in numbers]
            metrics = backward(core, batch, numbers, reference, s, point=point)
            if step == 0:
                check_step_0(metrics)
                warn_of_balance(run, rows, s)
            keep_rewards(learner, metrics["mean_reward"], len(batch))
            run.update(learner, step=step, metrics=metrics)
            run.probe(probe, policy, step=step)
        policy.eval()
        if held_out:
            held_out.report(run, core, trained_on=map(lean_of, pairs))
        whole = learner.masters.finish()
        return run.publish(lambda folder: save_policy(whole, chat, folder))


def backward(
    core: Core,
    batch: Sequence[SingleRow],
    numbers: Sequence[int],
    reference: Reference,
    s: UnpairedSettings,
    *,
    point: Tensor,
) -> dict[str, float]:
    """Leave the gradient of one step in the policy; return the step's metrics.

    The losses are summed and divided by the weight of the whole step, so that micro-batches of any
    size give the same gradient. A mean over desirable (or undesirable) rows is 0 in a step without
    any. Desirable rows are `chosen` where pairs have that name too.

    Args:
        core: the model being tuned.
        batch: the rows of the step.
        numbers: their row numbers.
        reference: log-probs of all rows under the reference.
        s: the loss, beta, the weights, the micro-batch.
        point: what rewards are compared with; see `reference_point`.
    """
    total = sum(row.weight for row in batch)
    losses, found = 0.0, []
    for micro in _micro(batch, s.engine.token_limit):
        rows = [batch[i] for i in micro]
        logratio = logratios(core, rows, reference.of([numbers[i] for i in micro]))
        desirable = torch.tensor([row.desirable for row in rows], device=logratio.device)
        weights = logratio.new_tensor([row.weight for row in rows])
        loss = (weights * row_losses(logratio, desirable, point.to(logratio), s)).sum() / total
        loss.backward()
        losses += loss.item()
        found.append(logratio.detach().cpu())
    return {"loss": losses, **measured(torch.cat(found), batch, s, point=point.item())}


def row_losses(logratio: Tensor, desirable: Tensor, point: Tensor, s: UnpairedSettings) -> Tensor:
    """Return the loss of each response."""
    judged = {"logratio": logratio, "desirable": desirable}
    if s.loss == "bco":
        return bco_loss(**judged, beta=s.beta, delta=point)
    if s.loss == "apo_zero_unpaired":
        return apo_zero_unpaired_loss(**judged, beta=s.beta)
    return kto_loss(
        **judged,
        kl=point,
        beta=s.beta,
        desirable_weight=s.desirable_weight,
        undesirable_weight=s.undesirable_weight,
    )


def measured(
    logratio: Tensor, batch: Sequence[SingleRow], s: UnpairedSettings, *, point: float
) -> dict[str, float]:
    """Return what a step says of its rows; accuracy counts rewards on the right side of `point`."""
    desirable = torch.tensor([row.desirable for row in batch])
    reward = s.beta * logratio
    above = reward - (s.beta * point if s.loss == "kto" else point)
    right = torch.where(desirable, above > 0, above < 0)
    chosen, rejected = _mean(logratio[desirable]), _mean(logratio[~desirable])
    name = {"kto": "kl_mismatched", "bco": "delta"}.get(s.loss)
    return {
        "accuracy": right.float().mean().item(),
        "chosen_logratio": chosen,
        "rejected_logratio": rejected,
        "margin": chosen - rejected,
        "chosen_reward": s.beta * chosen,
        "rejected_reward": s.beta * rejected,
        "mean_reward": reward.mean().item(),
        "largest_logratio": logratio.abs().max().item(),
        **({name: point} if name else {}),
    }


def _mean(values: Tensor) -> float:
    return values.mean().item() if len(values) else 0.0


def reference_point(
    core: Core,
    learner: Learner,
    mismatched: "Mismatched | None",
    step: int,
    s: UnpairedSettings,
) -> Tensor:
    """Return what rewards are compared with, a number without gradient.

    KTO's KL in nats of the log ratio; BCO's mean reward of all responses of the steps before; 0
    for APO-zero, and for both others at step 0.
    """
    if mismatched is not None:
        return mismatched.kl(core, step)
    if s.loss == "bco":
        seen = learner.extra[REWARDS]
        return (seen[0] / seen[1].clamp(min=1)).float()
    return torch.zeros(())


def keep_rewards(learner: Learner, mean_reward: float, rows: int) -> None:
    """Add a step's rewards to the running sum and number; they are saved with the checkpoint."""
    seen = torch.tensor([mean_reward * rows, rows], dtype=torch.float64)
    learner.extra[REWARDS] = learner.extra[REWARDS] + seen


def mixed_order(rows: Sequence[SingleRow], s: UnpairedSettings) -> Order:
    """Return steps of rows drawn at random, not of like length as elsewhere.

    Where good answers are the longer ones, steps of like length would hold good ones or bad ones
    alone, and KTO's reference point would move with them.
    """
    return Order(
        lengths=(1,) * len(rows),
        batch_size=s.optimizer.batch_size,
        epochs=s.optimizer.epochs,
        seed=s.run.seed,
    )


def first_pass(
    order: Order, rows: Sequence[SingleRow], s: UnpairedSettings
) -> Iterator[Sequence[int]]:
    """Yield every row number once, in the micro-batches of the first pass."""
    for batch in epoch_batches(order.lengths, order.batch_size, order.seed, 0):
        for micro in _micro([rows[number] for number in batch], s.engine.token_limit):
            yield batch[micro.start : micro.stop]


def unpaired_records(
    records: Sequence[UnpairedRow] | Sequence[PreferencePair], s: UnpairedSettings
) -> tuple[list[UnpairedRow], list[PreferencePair]]:
    """Return single responses, those of pairs split, and the pairs themselves.

    Raises:
        DataError: all responses are desirable, or all are not.
        SettingsError: held-out pairs without pairs to learn the length baseline on.
    """
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    if s.held_out and not pairs:
        raise SettingsError(
            f"held_out needs pairs to train on, for its length baseline; {s.data} holds single "
            "responses. Leave it out."
        )
    made = convert(records, "unpaired", Counter())
    singles = [row for row in made if isinstance(row, UnpairedRow)]
    kinds = {row.desirable for row in singles if row.weight}
    if len(kinds) == 1:
        kind = "desirable" if kinds == {True} else "undesirable"
        raise DataError(f"{s.data}: all rows are {kind}. Give rows of both kinds.")
    return singles, pairs


def warn_of_balance(run: Run, rows: Sequence[SingleRow], s: UnpairedSettings) -> None:
    """Warn when one class outweighs the other under KTO."""
    desirable = s.desirable_weight * sum(row.weight for row in rows if row.desirable)
    undesirable = s.undesirable_weight * sum(row.weight for row in rows if not row.desirable)
    if s.loss != "kto" or BALANCE[0] <= desirable / undesirable <= BALANCE[1]:
        return
    lighter, weight = ("undesirable", s.undesirable_weight * desirable / undesirable)
    if desirable < undesirable:
        lighter, weight = ("desirable", s.desirable_weight * undesirable / desirable)
    run.warn(
        f"desirable rows weigh {desirable / undesirable:.2f} times as much as undesirable ones; "
        "sources ask for 1 to 4/3, one for up to 3/2. "
        f"Try --{lighter}-weight {weight:.3g}.",
        step=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatched:
    """The prompts of every step, each with the response to another prompt of the same step.

    KTO's reference point is measured on them. They are a pure function of the order of rows, so
    the reference's log-probs are computed once for the whole run.
    """

    steps: Sequence[Sequence[SingleRow]]
    first: Sequence[int]  # number of each step's first row among all
    reference: Reference
    micro_tokens: int

    @classmethod
    def of(
        cls,
        run: Run,
        core: Core,
        rows: Sequence[SingleRow],
        order: Order,
        chat: Chat,
        s: UnpairedSettings,
    ) -> "Mismatched":
        """Return those of a whole run, with their log-probs under the model as it starts.

        Raises:
            DataError: a step has responses to one prompt only.
        """
        limit = s.length.max_length or model_limit(chat)
        steps = [mismatched([rows[n] for n in numbers], limit) for numbers in order.batches()]
        first = list(accumulate((len(step) for step in steps), initial=0))
        batches = [
            range(begin + micro.start, begin + micro.stop)
            for begin, step in zip(first, steps, strict=False)
            for micro in _micro(step, s.engine.token_limit)
        ]
        rows_of_all = [row for step in steps for row in step]
        reference = reference_of(run, core, rows_of_all, batches, s, name="mismatched")
        return cls(steps=steps, first=first, reference=reference, micro_tokens=s.engine.token_limit)

    @torch.no_grad()
    def kl(self, core: Core, step: int) -> Tensor:
        """Return KTO's reference point of a step in nats: exactly 0 when policy == reference."""
        rows, begin = self.steps[step], self.first[step]
        parts = [
            logratios(
                core,
                rows[micro.start : micro.stop],
                self.reference.of(range(begin + micro.start, begin + micro.stop)),
            )
            for micro in _micro(rows, self.micro_tokens)
        ]
        return kto_kl(torch.cat(parts))


def _micro(rows: Sequence[SingleRow], micro_tokens: int) -> Iterator[range]:
    return micro_batches([stream_length(row.sequences) for row in rows], micro_tokens)


def mismatched(batch: Sequence[SingleRow], limit: int) -> list[SingleRow]:
    """Return each row's prompt with the response of the next row that has another prompt.

    Counted in a circle. Both responses to one prompt often stand side by side, and neither is a
    response to another prompt. Where prompt and response are longer than the model can hold
    together, the prompt loses its start.

    Raises:
        DataError: the batch has one prompt only.
    """
    made = []
    for place, row in enumerate(batch):
        later = (batch[(place + shift) % len(batch)] for shift in range(1, len(batch)))
        asked = row.sequences[0]
        other = next((o for o in later if o.sequences[0].prompt_ids != asked.prompt_ids), None)
        if other is None:
            raise DataError(
                f"a step of {len(batch)} rows has one prompt only; KTO needs a response to another "
                "prompt in each step. Choose another --batch-size."
            )
        joined = _joined(asked, other.sequences[0])
        cut = without_start(joined, max(0, len(joined) - limit))
        made.append(dataclasses.replace(row, sequences=(cut,)))
    return made


def _joined(asked: TokenSequence, answered: TokenSequence) -> TokenSequence:
    """Return the prompt of one sequence with the response of another."""
    own = asked.own[: len(asked.prompt_ids)] + answered.own[len(answered.prompt_ids) :]
    return TokenSequence(prompt_ids=asked.prompt_ids, response_ids=answered.response_ids, own=own)
