"""Our side: the functions `preftune train` runs, without its run folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.config import RunConfig
from benchmarks.floor import product_gflops
from benchmarks.models import reward_head
from benchmarks.results import Measured
from preftune.engine.batches import Order, chunks
from preftune.engine.core import Core
from preftune.engine.learner import Learner
from preftune.engine.memory import keep_pages
from preftune.engine.precision import Masters
from preftune.engine.reference import reference_logprobs
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.adapters import add_lora
from preftune.models.chat import load_chat
from preftune.models.heads import new_reward_model
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.training import reward
from preftune.training.loss_sum import LossSum
from preftune.training.method_settings import RewardSettings
from preftune.training.pair_inputs import StepState
from preftune.training.pair_step import backward
from preftune.training.rows import PairRow
from preftune.training.settings import DirectSettings, RunSettings
from preftune.training.tokenise import pair_rows
from preftune.types import PreferencePair

LEAN_TOKENS = 512  # per forward: about two pairs
NOWHERE = Path("not-read")  # settings want paths that these functions never open
Step = Callable[[int, Sequence[int]], float]  # step and its row numbers to the loss in nats


def run(config: RunConfig, model: Path, pairs: Sequence[PreferencePair]) -> Measured:
    """Train on the pairs in the order given, epoch after epoch; return the times and losses."""
    if config.flags != "returned":
        keep_pages()  # as every run of preftune does
    began = time.perf_counter()
    start = reward_start if config.method == "rm" else direct_start
    step, reference_s = start(config, model, pair_rows(pairs, load_chat(model)))
    start_s = time.perf_counter() - began
    batches = list(chunks(range(len(pairs)), config.pairs_per_step))
    epoch_s: list[float] = []
    losses: list[float] = []
    gflops: list[float] = []
    for epoch in range(config.warmup + config.epochs):
        began = time.perf_counter()
        losses += [step(epoch * len(batches) + i, batch) for i, batch in enumerate(batches)]
        epoch_s.append(time.perf_counter() - began)
        gflops.append(product_gflops(config.precision, quick=True))
    return Measured(
        start_s=start_s,
        reference_s=reference_s,
        epoch_s=epoch_s[config.warmup :],
        losses=losses,
        gflops=gflops[config.warmup - 1 :] if config.warmup else [],
    )


def direct_start(config: RunConfig, model: Path, rows: Sequence[PairRow]) -> tuple[Step, float]:
    """Return what makes one DPO step, and the seconds that the reference took."""
    s = DirectSettings(
        model=str(model),
        data=NOWHERE,
        beta=0.1,
        nll_weight=0.0,
        run=RunSettings(out=NOWHERE),
        optimizer=optimizer(config),
        engine=engine(config),
    )
    loss, policy = LossSum.of(s), load_policy(model)
    if config.mode == "lora":  # a fresh adapter changes nothing: the reference is the same
        policy = add_lora(policy, LoraSettings(lora_rank=16), seed=0)
    learner = Learner.of(Masters(policy, s.engine.precision), order(config, rows), s.optimizer)
    core = Core.of(policy, s.engine)
    if config.flags == "unshared":
        core.note = "measured without"
    began = time.perf_counter()
    batches = chunks(range(len(rows)), config.pairs_per_step)
    reference = reference_logprobs(core, rows, batches)
    reference_s = time.perf_counter() - began
    check_precision(policy, config)

    def step(number: int, batch: Sequence[int]) -> float:
        state = StepState(step=number)
        if config.flags == "live":
            reference_logprobs(core, [rows[i] for i in batch], [range(len(batch))])
        figures = backward(core, rows, batch, reference.of, loss, state, s.engine)
        learner.update(number)
        return figures.metrics()["loss"]

    return step, reference_s


def reward_start(config: RunConfig, model: Path, rows: Sequence[PairRow]) -> tuple[Step, float]:
    """Return what makes one step of a reward model; there is no reference."""
    s = RewardSettings(
        model=str(model),
        data=NOWHERE,
        run=RunSettings(out=NOWHERE),
        optimizer=optimizer(config),
        engine=engine(config),
        centring=0.0,
    )
    scorer = new_reward_model(model, seed=0)
    with torch.no_grad():
        scorer.head.weight.copy_(reward_head(scorer.head.in_features))
    learner = Learner.of(Masters(scorer, s.engine.precision), order(config, rows), s.optimizer)
    scorer.train()
    check_precision(scorer.backbone, config)

    def step(number: int, batch: Sequence[int]) -> float:
        metrics = reward.backward(scorer, [rows[i] for i in batch], s)
        learner.update(number)
        return metrics["loss"]

    return step, 0.0


def check_precision(model: nn.Module, config: RunConfig) -> None:
    """Stop unless the model computes in the precision that the result will be filed under.

    Raises:
        SettingsError: it computes in another one.
    """
    wanted = torch.bfloat16 if config.precision == "bf16" else torch.float32
    found = next(model.parameters()).dtype
    if found != wanted:
        raise SettingsError(
            f"benchmark: {config.label} computes in {found}. Adapt benchmarks/ours.py."
        )


def engine(config: RunConfig) -> EngineSettings:
    """Return the engine's own defaults in the precision asked for, but for one lever."""
    usual = EngineSettings(
        precision=config.precision,
        recompute=config.flags == "checkpointed",
        compile=config.flags == "compiled",
        engine="plain" if config.flags == "plain" else "fast",
    )
    return replace(usual, micro_tokens=LEAN_TOKENS) if config.flags == "lean" else usual


def optimizer(config: RunConfig) -> OptimizerSettings:
    """Return TRL's AdamW: beta2 .999, no decay, a constant learning rate, clipping at 1."""
    return OptimizerSettings(
        lr=config.lr,
        epochs=float(config.warmup + config.epochs),
        batch_size=config.pairs_per_step,
        schedule="constant",
        warmup_frac=0.0,
        adam_beta2=0.999,
    )


def order(config: RunConfig, rows: Sequence[PairRow]) -> Order:
    """Return an order of the right length; the batches themselves are the rows as given."""
    return Order.of([row.sequences for row in rows], optimizer(config), seed=0)
