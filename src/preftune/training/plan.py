"""What a run will need, before its first step: rows, tokens, memory, disk and time.

Memory is counted on a model without content (`engine/plan.py`). Time is measured: a few forward
and backward passes of the real model over real rows. Nothing is written.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from torch import Tensor

from preftune.engine import determinism
from preftune.engine.batches import Order
from preftune.engine.checkpoint import KEEP
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.memory import usable_bytes
from preftune.engine.plan import FP32, MOMENTS, Parts, Workload, fitting_micro_tokens
from preftune.engine.precision import Masters
from preftune.engine.scores import score_rows
from preftune.errors import DataError
from preftune.models.adapters import adapter_dropout_only, add_lora
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model
from preftune.models.load import load_policy
from preftune.models.tokens import TokenSequence
from preftune.progress import progress
from preftune.settings import checked
from preftune.training.listwise_rows import RankedRow, longest, ranked_rows, without_start
from preftune.training.loss_sum import LossSum
from preftune.training.method_settings import RewardSettings
from preftune.training.reward_data import check_data, read_material
from preftune.training.rows import DemonstrationRow, PairRow, TokenRows, model_limit
from preftune.training.settings import DirectSettings, LengthSettings, SftSettings
from preftune.training.tokenise import read_demonstration_rows, read_pair_rows
from preftune.training.workload import RowSizes, settled, size_and_dtype, workload

Settings = SftSettings | DirectSettings | RewardSettings
Row = tuple[TokenSequence, ...]
Rows = TokenRows[PairRow] | TokenRows[DemonstrationRow] | list[RankedRow]

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
    micro_tokens: int  # 0: the whole step at once
    chosen: bool  # micro_tokens is what `auto` gives here and now
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
    fitting = fitting_rows(rows, s.length, limit)
    if not len(fitting):
        raise DataError(
            f"{s.data}: all {len(rows)} rows are longer than {limit} tokens. Raise --max-length."
        )
    too_long = len(rows) - len(fitting)
    fitting = weighing_rows(fitting)
    sizes = RowSizes.of(fitting)
    order = Order.of_lengths(sizes.stream.tolist(), s.optimizer, seed=s.run.seed)
    data = data_plan(sizes, order, too_long=too_long, limit=limit)
    work, free = workload(s, sizes, order), usable_bytes(torch.device("cpu"))
    suggested = fitting_micro_tokens(work.peak, free, longest_row=work.longest_row)
    s, asked = settled(s, sizes, free), s.engine.micro_tokens
    able = min(work.peak(suggested), work.peak(s.engine.token_limit)) <= free
    speed = Speed.measured(s, fitting, order) if able else None
    return Plan(
        data=data,
        precision="fp32" if work.dtype == torch.float32 else "bf16",
        memory=work.parts(s.engine.token_limit),
        available_bytes=free,
        micro_tokens=s.engine.token_limit,
        chosen=asked == "auto",
        suggested_micro_tokens=suggested,
        disk=disk_plan(work, data, has_reference=has_reference),
        time=speed.of_run(s, data, has_reference=has_reference) if speed else None,
        advice=tuple(advice(s, data, work, free, suggested)),
    )


def read_rows(s: Settings) -> tuple[Rows, int]:
    """Return every row of the run's data, and how long one may be, in tokens.

    Raises:
        DataError: rows that the run would refuse.
        SettingsError: options that the rows give no cause for.
    """
    chat = load_chat(s.model)
    limit = s.length.max_length or model_limit(chat)
    if isinstance(s, SftSettings):
        return read_demonstration_rows(s.data, chat, train_on=s.train_on), limit
    if isinstance(s, DirectSettings):
        return read_pair_rows(s.data, chat), limit
    material = read_material(s.data, chat, dimension=s.dimension)
    check_data(material, s)
    return material if isinstance(material, TokenRows) else ranked_rows(material, chat), limit


def fitting_rows(rows: Rows, settings: LengthSettings, limit: int) -> Rows:
    """Return the rows that fit, the start of long prompts cut if the settings say so."""
    cutting = settings.on_long == "cut-prompt"
    if isinstance(rows, TokenRows):
        prompts = (rows.arrays.spans[..., 1] - rows.arrays.spans[..., 0]).min(axis=1)
        excess = np.maximum(rows.lengths.max(axis=1) - limit, 0)
        cut = np.where(excess < prompts, excess, 0) if cutting else np.zeros_like(excess)
        return rows.without_start(cut).at(np.flatnonzero(excess == cut))
    shorter = [_shortened(row, limit) if cutting else row for row in rows]
    return [row for row in shorter if longest(row) <= limit]


def weighing_rows(rows: Rows) -> Rows:
    """Return the rows that weigh something: a run leaves the others out."""
    return rows.weighing() if isinstance(rows, TokenRows) else [r for r in rows if r.weight > 0]


def _shortened(row: RankedRow, limit: int) -> RankedRow:
    excess = longest(row) - limit
    if not 0 < excess < len(row.sequences[0].prompt_ids):
        return row
    cut = tuple(without_start(sequence, excess) for sequence in row.sequences)
    return replace(row, sequences=cut)


def data_plan(sizes: RowSizes, order: Order, *, too_long: int, limit: int) -> DataPlan:
    """Return how much goes through the model."""
    return DataPlan(
        rows=len(sizes.stream),
        too_long=too_long,
        limit_tokens=limit,
        longest_tokens=sizes.longest,
        tokens=sum(order.lengths),
        tokens_apart=sizes.apart,
        own_tokens=sizes.own,
        steps=order.steps,
        largest_step_tokens=max(
            sum(order.lengths[number] for number in numbers) for numbers in order.batches()
        ),
    )


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
    def measured(cls, s: Settings, rows: Rows, order: Order) -> "Speed":
        """Time a few passes over batches of the run, from short rows to long ones."""
        determinism.fix(s.run.threads)
        learner, scores = _learner(s, order)
        wish = min(s.engine.token_limit or TIMED_TOKENS, TIMED_TOKENS)
        batches = sorted(order.micro_batches(wish), key=lambda b: max(order.lengths[n] for n in b))
        places = [(2 * i + 1) * len(batches) // (2 * TIMED_PASSES) for i in range(TIMED_PASSES)]
        chosen = [batches[place] for place in sorted(set(places))]
        scores(
            [rows[n].sequences for n in batches[0]]
        ).sum().backward()  # the first pass is never typical
        learner.update(0)
        tokens, forward, both = 0, [], []
        began = time.perf_counter()
        with progress("time a few passes", len(chosen)) as advance:
            for numbers in chosen:
                start = time.perf_counter()
                found = scores([rows[n].sequences for n in numbers]).sum()
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
    if work.peak(s.engine.token_limit) <= free:
        return
    if work.peak(suggested) < work.peak(s.engine.token_limit):
        yield f"--micro-tokens {suggested}: {_gigabytes(work.peak(suggested))}"
    tokens = min(suggested, s.engine.token_limit or suggested)
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
    policy = load_policy(s.model, bits=s.lora.base_bits)
    policy = add_lora(policy, s.lora, seed=seed) if adapted else policy
    learner = Learner.of(Masters(policy, s.engine.precision), order, s.optimizer)
    core = Core.of(policy, s.engine)
    if isinstance(s, DirectSettings):
        adapter_dropout_only(policy)
    else:
        policy.train()
    return learner, lambda rows: core.token_logprobs(rows).sums()


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
