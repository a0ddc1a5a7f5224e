"""What a run will need, before its first step: rows, tokens, memory, disk and time.

Memory is counted on a model without content (`engine/plan.py`). Time is measured: a few forward
and backward passes of the real model over real rows. Nothing is written.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from preftune.datasets import read_demonstrations, read_pairs
from preftune.engine import determinism
from preftune.engine.batches import Order
from preftune.engine.checkpoint import KEEP
from preftune.engine.core import Core, body_of
from preftune.engine.layout import stream_length
from preftune.engine.learner import Learner
from preftune.engine.memory import available_bytes
from preftune.engine.plan import (
    FP32,
    MOMENTS,
    Parts,
    Size,
    Workload,
    fitting_micro_tokens,
    size_of,
)
from preftune.engine.precision import Masters, resolve
from preftune.engine.scores import score_rows
from preftune.errors import DataError
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import load_chat
from preftune.models.heads import RewardModel, new_reward_model
from preftune.models.load import adapter_base, load_policy, quiet, read_config
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.settings import checked
from preftune.training.listwise_rows import ranked_rows, read_either
from preftune.training.loss_sum import LossSum
from preftune.training.method_settings import RewardSettings
from preftune.training.rows import demonstration_rows, model_limit, pair_rows
from preftune.training.settings import DirectSettings, LengthSettings, SftSettings
from preftune.types import PreferencePair, RankedList

Settings = SftSettings | DirectSettings | RewardSettings
Row = tuple[TokenSequence, ...]

TIMED_TOKENS = 2048  # of one timed pass: more cost the same per token
TIMED_PASSES = 6
TIMED_SECONDS = 10.0  # no further pass is begun after this long
SUGGESTED_RANK = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlan:
    """What goes through the model. Tokens are those of one pass over the rows."""

    rows: int  # that fit
    too_long: int  # rows over the limit, which are not counted in anything else
    limit_tokens: int
    longest_tokens: int  # of one sequence
    tokens: int  # each prompt once for all its responses
    tokens_apart: int  # each prompt again for every response
    own_tokens: int
    steps: int
    largest_step_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskPlan:
    """Bytes on disk at the most."""

    checkpoints: int  # those kept and the one being written
    model: int
    reference: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePlan:
    """Seconds of the whole run, from passes timed on this machine as busy as it was."""

    training: float
    reference: float
    low: float  # of both, were every pass as fast as the fastest timed
    high: float  # as slow as the slowest
    timed_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything `preftune plan` says."""

    data: DataPlan
    precision: str
    memory: Parts
    available_bytes: int
    micro_tokens: int  # as asked for; 0: the whole step at once
    suggested_micro_tokens: int
    disk: DiskPlan
    time: TimePlan | None  # None: it does not fit, so nothing was loaded
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the run as asked for fits into the memory there is."""
        return self.memory.total <= self.available_bytes


def plan(settings: Settings) -> Plan:
    """Return what a run of these settings will need.

    Raises:
        PreftuneError: bad settings, rows or model, as the run itself would say.
    """
    s = checked(settings)
    has_reference = isinstance(s, DirectSettings) and LossSum.of(s).has_reference
    rows, limit = read_rows(s)
    fitting = [row for row in map(shortened(s.length, limit), rows) if _longest(row) <= limit]
    if not fitting:
        raise DataError(
            f"{s.data}: all {len(rows)} rows are longer than {limit} tokens. Raise --max-length."
        )
    order = Order.of(fitting, s.optimizer, seed=s.run.seed)
    data = data_plan(fitting, order, too_long=len(rows) - len(fitting), limit=limit)
    work = workload(s, fitting, order)
    free = available_bytes(torch.device("cpu"))
    suggested = fitting_micro_tokens(work.peak, free, longest_row=work.longest_row)
    able = min(work.peak(suggested), work.peak(s.engine.micro_tokens)) <= free
    speed = Speed.measured(s, fitting, order) if able else None
    return Plan(
        data=data,
        precision="fp32" if work.dtype == torch.float32 else "bf16",
        memory=work.parts(s.engine.micro_tokens),
        available_bytes=free,
        micro_tokens=s.engine.micro_tokens,
        suggested_micro_tokens=suggested,
        disk=disk_plan(work, data, has_reference=has_reference),
        time=speed.of_run(s, data, has_reference=has_reference) if speed else None,
        advice=tuple(advice(s, data, work, free, suggested)),
    )


def read_rows(s: Settings) -> tuple[list[Row], int]:
    """Return the sequences of every row of the run's data, and how long they may be, in tokens."""
    found: Sequence[Any]
    if isinstance(s, SftSettings):
        records = read_demonstrations(s.data)
        chat = load_chat(s.model)
        found = demonstration_rows(records, chat, train_on=s.train_on)
    else:
        either = isinstance(s, RewardSettings)
        given = read_either(s.data, PreferencePair, RankedList) if either else read_pairs(s.data)
        lists = [record for record in given if isinstance(record, RankedList)]
        pairs = [record for record in given if isinstance(record, PreferencePair)]
        chat = load_chat(s.model)
        found = ranked_rows(lists, chat) if lists else pair_rows(pairs, chat)
    return [row.sequences for row in found], s.length.max_length or model_limit(chat)


def shortened(settings: LengthSettings, limit: int) -> Callable[[Row], Row]:
    """Return what cuts the start of a long row's prompt, if the settings say so."""

    def cut(row: Row) -> Row:
        excess = _longest(row) - limit
        if settings.on_long != "cut-prompt" or not 0 < excess < len(row[0].prompt_ids):
            return row
        return tuple(
            replace(sequence, prompt_ids=sequence.prompt_ids[excess:], own=sequence.own[excess:])
            for sequence in row
        )

    return cut


def data_plan(rows: Sequence[Row], order: Order, *, too_long: int, limit: int) -> DataPlan:
    """Return how much goes through the model."""
    return DataPlan(
        rows=len(rows),
        too_long=too_long,
        limit_tokens=limit,
        longest_tokens=max(map(_longest, rows)),
        tokens=sum(order.lengths),
        tokens_apart=sum(len(sequence) for row in rows for sequence in row),
        own_tokens=sum(sequence.own_length for row in rows for sequence in row),
        steps=order.steps,
        largest_step_tokens=max(
            sum(order.lengths[number] for number in numbers) for numbers in order.batches()
        ),
    )


def workload(s: Settings, rows: Sequence[Row], order: Order) -> Workload:
    """Return the run as memory sees it; an encoder shares no prompts."""
    size, dtype = size_and_dtype(s)
    apart = read_config(s.model).kind == "encoder"
    lengths = [len(row) * _longest(row) if apart else stream_length(row) for row in rows]
    copies = 0
    if isinstance(s, DirectSettings) and s.lora.lora_rank == 0:
        copies = (s.probe.probe_every > 0) + (s.moving.ref_every > 0)
    return Workload(
        size=size,
        dtype=dtype,
        step_tokens=max(sum(lengths[n] for n in numbers) for numbers in order.batches()),
        longest_row=max(lengths),
        own_frac=sum(sequence.own_length for row in rows for sequence in row) / sum(lengths),
        recompute=s.engine.recompute and not isinstance(s, RewardSettings),
        chunked=s.engine.engine == "fast",
        copies=copies,
    )


def size_and_dtype(s: Settings) -> tuple[Size, torch.dtype]:
    """Return the size of the model that trains, and what it will compute in."""
    model, vocabulary = empty_model(s)
    dtype = resolve(s.engine.precision, model)
    model.to(dtype).eval()
    body = body_of(model.backbone if isinstance(model, RewardModel) else model)
    return size_of(model, body, vocabulary=vocabulary), dtype


def empty_model(s: Settings) -> tuple[Any, int]:
    """Return the model that trains, without content, and how many tokens its head tells apart."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    about = read_config(s.model)
    reward = isinstance(s, RewardSettings)
    with torch.device("meta"), quiet():
        config = AutoConfig.from_pretrained(about.base or s.model)
        model = (AutoModel if reward else AutoModelForCausalLM).from_config(config)
        if adapter_base(s.model) is not None:
            from peft import PeftConfig, get_peft_model

            model = get_peft_model(model, PeftConfig.from_pretrained(s.model))
        if s.lora.lora_rank:
            model = add_lora(model, s.lora, seed=s.run.seed)
        if not reward:
            return model, int(config.get_text_config().vocab_size)
        head = nn.Linear(int(config.hidden_size), 1, bias=False)
        return RewardModel(model, head, kind=about.kind), 0


def disk_plan(work: Workload, data: DataPlan, *, has_reference: bool) -> DiskPlan:
    """Return the most that the run folder and the reference cache take."""
    trained = FP32 * work.size.trained  # with an adapter, only it is saved
    return DiskPlan(
        checkpoints=(KEEP + 1) * (1 + MOMENTS) * trained,
        model=trained,
        reference=FP32 * data.own_tokens if has_reference else 0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What the timed passes took."""

    tokens: int  # of all of them, prompts once
    forward: tuple[float, ...]  # seconds a token, one per pass
    both: tuple[float, ...]  # forward and backward
    update: float  # seconds of one optimiser step

    @classmethod
    def measured(cls, s: Settings, rows: Sequence[Row], order: Order) -> "Speed":
        """Time a few passes over batches of the run, from short rows to long ones."""
        determinism.fix(s.run.threads)
        learner, scores = _learner(s, order)
        wish = min(s.engine.micro_tokens or TIMED_TOKENS, TIMED_TOKENS)
        batches = sorted(order.micro_batches(wish), key=lambda b: max(order.lengths[n] for n in b))
        places = [(2 * i + 1) * len(batches) // (2 * TIMED_PASSES) for i in range(TIMED_PASSES)]
        chosen = [batches[place] for place in sorted(set(places))]
        scores([rows[n] for n in batches[0]]).sum().backward()  # the first pass is never typical
        learner.update(0)
        tokens, forward, both = 0, [], []
        began = time.perf_counter()
        with progress("time a few passes", len(chosen)) as advance:
            for numbers in chosen:
                start = time.perf_counter()
                found = scores([rows[n] for n in numbers]).sum()
                middle = time.perf_counter()
                found.backward()
                length = sum(order.lengths[n] for n in numbers)
                forward.append((middle - start) / length)
                both.append((time.perf_counter() - start) / length)
                tokens += length
                advance()
                if time.perf_counter() - began > TIMED_SECONDS:
                    break
        start = time.perf_counter()
        learner.update(0)
        update = time.perf_counter() - start
        return cls(tokens=tokens, forward=tuple(forward), both=tuple(both), update=update)

    def of_run(self, s: Settings, data: DataPlan, *, has_reference: bool) -> TimePlan:
        """Return the time of the whole run; the reference is computed once, whatever the epochs."""
        trained = data.tokens * s.optimizer.epochs
        frozen = data.tokens if has_reference else 0
        updates = data.steps * self.update

        def seconds(pick: Callable[[Sequence[float]], float]) -> tuple[float, float]:
            return trained * pick(self.both) + updates, frozen * pick(self.forward)

        training, reference = seconds(median)
        return TimePlan(
            training=training,
            reference=reference,
            low=sum(seconds(min)),
            high=sum(seconds(max)),
            timed_tokens=self.tokens,
        )


def advice(s: Settings, data: DataPlan, work: Workload, free: int, suggested: int) -> Iterator[str]:
    """Yield what to change, if anything, each with the memory it leads to."""
    if data.too_long and s.length.on_long != "drop":
        yield (
            f"{data.too_long} rows are longer than {data.limit_tokens} tokens and would stop the "
            "run. Raise --max-length, or use --on-long drop or cut-prompt."
        )
    if work.peak(s.engine.micro_tokens) <= free:
        return
    if work.peak(suggested) < work.peak(s.engine.micro_tokens):
        yield f"--micro-tokens {suggested}: {_gigabytes(work.peak(suggested))}"
    tokens = min(suggested, s.engine.micro_tokens or suggested)
    again = replace(work, recompute=True)
    if not work.recompute and not isinstance(s, RewardSettings):
        yield f"--recompute --micro-tokens {tokens}: {_gigabytes(again.peak(tokens))}"
    if s.lora.lora_rank == 0:
        size, _ = size_and_dtype(replace(s, lora=replace(s.lora, lora_rank=SUGGESTED_RANK)))
        lighter = replace(work, size=size, copies=0)
        yield (
            f"--lora-rank {SUGGESTED_RANK} --micro-tokens {tokens}: "
            f"{_gigabytes(lighter.peak(tokens))}"
        )
    yield "shorter rows (--max-length with --on-long drop), or a machine with more memory"


def _learner(s: Settings, order: Order) -> tuple[Learner, Callable[[Sequence[Row]], Tensor]]:
    """Return the real model, ready to learn, and what gives one number per response."""
    seed, adapted = s.run.seed, s.lora.lora_rank > 0
    if isinstance(s, RewardSettings):
        scorer = new_reward_model(s.model, seed=seed, lora=s.lora)
        learner = Learner.of(Masters(scorer, s.engine.precision), order, s.optimizer)
        scorer.train()
        return learner, lambda rows: score_rows(scorer, rows)
    policy = load_policy(s.model)
    policy = add_lora(policy, s.lora, seed=seed) if adapted else policy
    learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
    core = Core.of(policy, s.engine)
    if isinstance(s, DirectSettings):
        adapter_dropout_only(policy)
    else:
        policy.train()
    return learner, lambda rows: core.token_logprobs(rows).sums()


def _longest(row: Row) -> int:
    return max(len(sequence) for sequence in row)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
