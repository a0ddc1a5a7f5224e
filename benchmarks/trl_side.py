"""TRL's side: its trainers with its own settings, and the best ones known for a CPU."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

import datasets
from benchmarks.config import RunConfig
from benchmarks.data import MAX_LENGTH, length_tokens
from benchmarks.models import reward_head
from benchmarks.results import Measured
from preftune.errors import DataError
from preftune.models.chat import Chat, load_chat
from preftune.types import Message, PreferencePair

LORA = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear")


class EpochClock(TrainerCallback):  # type: ignore[misc]  # transformers is not read by mypy here
    """Keeps the seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._began)


class TimedDPOTrainer(DPOTrainer):  # type: ignore[misc]  # trl is not read by mypy here
    """TRL's trainer that keeps the seconds of its reference pass."""

    reference_s = 0.0

    def _precompute_ref_logps(self, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*arguments, **named)
        self.reference_s = time.perf_counter() - began
        return found


def run(config: RunConfig, model: Path, pairs: Sequence[PreferencePair]) -> Measured:
    """Train on the pairs; return the times and, where asked for, the loss of each step.

    Raises:
        DataError: TRL's token ids of a pair are not ours.
    """
    chat = load_chat(model)
    rows = [trl_row(pair, chat) for pair in pairs]
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        trainer = (reward_trainer if config.method == "rm" else dpo_trainer)(
            config, model, datasets.Dataset.from_list(rows), Path(scratch)
        )
        start_s = time.perf_counter() - began
        check_same_tokens(trainer.train_dataset, pairs, chat)
        clock = EpochClock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return Measured(
        start_s=start_s,
        reference_s=getattr(trainer, "reference_s", 0.0),
        epoch_s=clock.seconds[config.warmup :],
        losses=[row["loss"] for row in trainer.state.log_history if "loss" in row],
    )


def dpo_trainer(config: RunConfig, model: Path, rows: Any, scratch: Path) -> Any:
    """Return TRL's DPO trainer over a fresh policy."""
    return TimedDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32),
        args=DPOConfig(
            **shared_flags(config, scratch), precompute_ref_log_probs=config.flags != "default"
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(str(model)),
        peft_config=LORA if config.mode == "lora" else None,
    )


def reward_trainer(config: RunConfig, model: Path, rows: Any, scratch: Path) -> Any:
    """Return TRL's reward trainer over a backbone with the head that our side has too."""
    scorer = AutoModelForSequenceClassification.from_pretrained(
        str(model), num_labels=1, dtype=torch.float32
    )
    with torch.no_grad():
        scorer.score.weight.copy_(reward_head(scorer.score.in_features))
    return RewardTrainer(
        model=scorer,
        args=RewardConfig(**shared_flags(config, scratch)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(str(model)),
    )


def shared_flags(config: RunConfig, scratch: Path) -> dict[str, Any]:
    """Return the trainer arguments of a configuration.

    `default` leaves alone everything that costs time: checkpointing is on, rows are shuffled, the
    reference is run at every step. What a result depends on is the same for all.
    """
    flags: dict[str, Any] = {
        "output_dir": str(scratch),
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "bf16": config.precision == "bf16",
        "per_device_train_batch_size": config.micro,
        "gradient_accumulation_steps": config.pairs_per_step // config.micro,
        "num_train_epochs": config.warmup + config.epochs,
        "learning_rate": config.lr,
        "lr_scheduler_type": "constant",
        "max_length": config.length or MAX_LENGTH,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": 0,
    }
    if config.flags != "default":
        flags["gradient_checkpointing"] = config.flags == "checkpointed"
        flags["train_sampling_strategy"] = "sequential"
    if config.flags == "grouped":
        flags["train_sampling_strategy"] = "group_by_length"
        flags["remove_unused_columns"] = False  # else the column of lengths is dropped
    if config.losses:
        flags |= {"logging_strategy": "steps", "logging_steps": 1}
    return flags


def trl_row(pair: PreferencePair, chat: Chat) -> dict[str, Any]:
    """Return a pair as TRL reads it, with the column of lengths that its grouping needs."""
    texts = {
        "prompt": turns(pair.prompt.messages),
        "chosen": turns(pair.chosen),
        "rejected": turns(pair.rejected),
    }
    return {**texts, "length": length_tokens(pair, chat)}


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages in the usual form."""
    return [{"role": message.role, "content": message.content} for message in messages]


def check_same_tokens(found: Any, pairs: Sequence[PreferencePair], chat: Chat) -> None:
    """Stop unless TRL trains on the very ids that we train on, pair by pair.

    Raises:
        DataError: with the first pair that differs.
    """
    if len(found) != len(pairs):
        raise DataError(f"benchmark: TRL keeps {len(found)} of {len(pairs)} pairs. Compare none.")
    for row, pair in zip(found, pairs, strict=True):
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            theirs = row.get("prompt_ids", []) + row[f"{side}_ids"]
            if tuple(theirs) != chat.encode(pair.prompt, answer).ids:
                raise DataError(f"benchmark: {pair.id}: TRL's ids of {side} are not ours.")
