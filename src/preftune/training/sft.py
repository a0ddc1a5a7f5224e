"""Supervised fine-tuning: imitate the response of each row, token by token."""

from collections.abc import Sequence
from pathlib import Path

from preftune.engine.batches import Order
from preftune.engine.core import Core
from preftune.engine.layout import micro_batches, stream_length
from preftune.engine.learner import Learner
from preftune.engine.precision import Masters
from preftune.models.adapters import add_lora
from preftune.models.chat import load_chat
from preftune.models.fingerprint import model_fingerprint
from preftune.models.load import load_policy, save_policy
from preftune.settings import checked
from preftune.training.observer import Observer, introduce
from preftune.training.rows import DemonstrationRow, stream_lengths
from preftune.training.run import Run
from preftune.training.settings import SftSettings
from preftune.training.tokenise import read_demonstration_rows
from preftune.training.validation import logps_and_hits, on_demonstrations


def train(settings: SftSettings, *, observer: Observer | None = None) -> Path:
    """Train, or go on with an unfinished run, and return the folder of the trained model.

    Args:
        settings: all one can turn.
        observer: looks on; hears which share of the tokens was right as well.

    Raises:
        PreftuneError: bad settings, rows or model, or a run folder that holds another run.
    """
    s = checked(settings)
    chat = load_chat(s.model)
    encoded = read_demonstration_rows(s.data, chat, train_on=s.train_on)
    policy = load_policy(s.model, bits=s.lora.base_bits)
    inputs = {"data": encoded.data_hash, "model": model_fingerprint(policy, chat)}
    with Run.open(s, method="sft", inputs=inputs, observer=observer) as run:
        if run.finished:
            return run.final
        rows = run.rows_that_fit(encoded, s.length, chat)
        s = run.settled(s, rows)
        policy = add_lora(policy, s.lora, seed=s.run.seed) if s.lora.lora_rank else policy
        order = Order.of_lengths(stream_lengths(rows), s.optimizer, seed=s.run.seed)
        learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
        core = run.core(policy, s.engine)
        policy.train()
        limit = s.engine.token_limit
        if observer:
            other = rows[:0]
            if observer.validation:
                read = read_demonstration_rows(observer.validation, chat, train_on=s.train_on)
                other = run.rows_that_fit(read, s.length, chat, name="validation")
            measure = on_demonstrations(core, other, micro_tokens=limit)
            introduce(observer, learner, chat, policy, validate=measure, rows=len(other))
        for step, numbers in run.steps(learner):
            batch = [rows[number] for number in numbers]
            metrics = backward(core, batch, micro_tokens=limit, with_hits=observer is not None)
            run.update(learner, step=step, metrics=metrics)
        whole = learner.masters.finish()
        return run.publish(lambda folder: save_policy(whole, chat, folder))


def backward(
    core: Core, batch: Sequence[DemonstrationRow], *, micro_tokens: int, with_hits: bool = False
) -> dict[str, float]:
    """Leave the gradient of one step in the policy; return its loss in nats per own token.

    With hits it also returns the share of own tokens that were the likeliest at their place.

    The loss is the weighted NLL of all own tokens of the step over their weighted number, so
    that micro-batches of any size give the same gradient.
    """
    tokens = sum(row.weight * row.sequence.own_length for row in batch)
    loss, right = 0.0, 0
    for part in micro_batches([stream_length(row.sequences) for row in batch], micro_tokens):
        micro = [batch[i] for i in part]
        sequences = [row.sequences for row in micro]
        if with_hits:
            logps, found = logps_and_hits(core, sequences)
            right += found or 0
        else:
            logps = core.token_logprobs(sequences).sums()
        weights = logps.new_tensor([row.weight for row in micro])
        nll = -(weights * logps).sum() / tokens
        nll.backward()
        loss += nll.item()
    own = float(sum(row.sequence.own_length for row in batch))
    accuracy = {"mean_token_accuracy": right / own} if with_hits and core.own_head else {}
    return {"loss": loss, "tokens": own, **accuracy}
