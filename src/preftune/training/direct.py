"""Direct preference optimisation: raise chosen above rejected, by any loss of `objectives`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from preftune.engine.batches import Order, chunks
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.errors import SettingsError
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.settings import checked
from preftune.training.loss_sum import LossSum, resolved
from preftune.training.observer import Observer, introduce
from preftune.training.pair_inputs import StepState
from preftune.training.pair_step import backward, inputs_of
from preftune.training.probe import Probe
from preftune.training.rows import PairRow, stream_lengths
from preftune.training.run import Run
from preftune.training.running import ReferenceOf, moving_reference, remember, state_of
from preftune.training.settings import DirectSettings
from preftune.training.tokenise import pair_rows, read_pair_rows
from preftune.training.validation import EVAL_BATCH, on_pairs, pair_columns


def train(settings: DirectSettings, *, observer: Observer | None = None) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the tuned model.

    The reference is the model as it starts: with LoRA the same weights with the adapter off.
    An observer measures on the pairs held out.

    Raises:
        HealthError: at step 0 policy and reference differ, or the loss is not a number.
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = resolved(checked(settings))
    loss = LossSum.of(s)
    chat = load_chat(s.model)
    encoded = read_pair_rows(s.data, chat)
    kept_out = read_pair_rows(s.held_out, chat) if s.held_out else pair_rows([], chat)
    loss.check_pairs(encoded.facts)
    policy = load_policy(s.model, bits=s.lora.base_bits)
    inputs = {"data": encoded.data_hash, "model": model_fingerprint(policy, chat)}
    with Run.open(s, method="direct", inputs=inputs, observer=observer) as run:
        if run.finished:
            return run.final
        rows = run.rows_that_fit(encoded, s.length, chat)
        s = run.settled(s, rows)
        held_rows = run.rows_that_fit(kept_out, s.length, chat, name="held_out")
        order = Order.of_lengths(stream_lengths(rows), s.optimizer, seed=s.run.seed)
        check_steps(order, loss, micro_tokens=s.engine.token_limit)
        seed, full = s.run.seed, s.lora.lora_rank == 0
        policy = policy if full else add_lora(policy, s.lora, seed=seed)
        learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
        core = run.core(policy, s.engine)
        start = held_start = None
        if loss.has_reference:
            start, held_start = references(run, core, rows, held_rows, order, s)
        prompts = (pair.prompt for pair in encoded.records)
        probe = Probe.of(policy, chat, prompts, s.probe, seed=seed, keep_reference=full)
        moving = moving_reference(learner, core, rows, start, s.moving)
        if observer:
            measure = on_pairs(core, held_rows, held_start, loss, learner.extra, seed=seed)
            introduce(observer, learner, chat, policy, validate=measure, rows=len(held_rows))
        for step, numbers in run.steps(learner):
            adapter_dropout_only(policy)
            state = state_of(learner.extra, step=step, seed=seed)
            figures = backward(core, rows, numbers, moving or start, loss, state, s.engine)
            remember(learner.extra, figures.pairs, loss, state)
            metrics = figures.metrics()
            if observer:
                metrics |= pair_columns(figures.pairs) | {"kl": figures.drift}
            metrics |= moving.distance(figures.pairs, numbers) if moving else {}
            run.update(learner, step=step, metrics=metrics)
            if moving:
                moving.after(step)
            run.probe(probe, policy, step=step)
        policy.eval()
        if held_rows:
            leans, held_leans = encoded.facts["lean"], held_rows.facts["lean"]
            found = margins(core, held_rows, held_start, loss)
            run.report_held_out(trained_on=leans, leans=held_leans, margins=found)
        whole = learner.masters.finish()
        return run.publish(lambda folder: save_policy(whole, chat, folder))


def references(
    run: Run,
    core: Core,
    rows: Sequence[PairRow],
    held_rows: Sequence[PairRow],
    order: Order,
    s: DirectSettings,
) -> tuple[ReferenceOf, ReferenceOf]:
    """Return the log-probs of all pairs, and of those held out, under the model as it starts."""
    trained = run.reference(
        core,
        rows,
        order.micro_batches(s.engine.token_limit),
        how=f"{s.run.seed}/{s.optimizer.batch_size}/{s.engine}/{s.lora}",
    )
    held = run.reference(
        core,
        held_rows,
        chunks(range(len(held_rows)), EVAL_BATCH),
        how=f"{s.engine}/{s.lora}",
        name="held_out",
    )
    return trained.of, held.of


@torch.no_grad()
def margins(
    core: Core, rows: Sequence[PairRow], reference: ReferenceOf | None, loss: LossSum
) -> list[float]:
    """Return how much higher the reward of chosen is than that of rejected, per pair."""
    parts = []
    scored = replace(loss, weighting="none")
    for micro in chunks(range(len(rows)), EVAL_BATCH):
        batch = [rows[number] for number in micro]
        p = inputs_of(core, batch, micro, reference, scored, StepState())
        chosen, rejected = scored.rewards(p)
        parts.append(chosen - rejected)
    return torch.cat(parts).tolist()


def check_steps(order: Order, loss: LossSum, *, micro_tokens: int) -> None:
    """Refuse steps that a loss over whole steps cannot take: too large for one forward, or small.

    Raises:
        SettingsError: names the loss, the tokens of the step, and what to change.
    """
    if not loss.needs_whole_step:
        return
    steps = list(order.batches())
    loss.try_on(min(len(numbers) for numbers in steps))
    largest = max(sum(order.lengths[number] for number in numbers) for numbers in steps)
    if micro_tokens and largest > micro_tokens:
        raise SettingsError(
            f"loss {loss}: it compares all pairs of a step, and one of {largest} tokens does not "
            f"fit a forward of micro_tokens {micro_tokens}. Raise it, or lower batch_size."
        )
