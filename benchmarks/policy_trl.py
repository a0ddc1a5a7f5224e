"""TRL's side of policy optimisation: its trainers with its best settings for a CPU."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

import datasets
from benchmarks.data import MAX_LENGTH
from benchmarks.policy_ours import in_our_order
from benchmarks.policy_runs import NEW_TOKENS, PolicyConfig, PolicyMeasured
from benchmarks.trl_side import turns
from preftune.errors import DataError, SettingsError
from preftune.models.chat import Chat, load_chat
from preftune.types import PreferencePair

BETA = 0.05  # the leash of our side's defaults


class StepClock(TrainerCallback):  # type: ignore[misc]  # transformers is not read by mypy here
    """Keeps the seconds of each optimiser step, drawing included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._began)


class Characters:
    """The reward of our side: hundreds of characters. Counts the tokens it is asked about."""

    __name__ = "characters"  # TRL wants one

    def __init__(self, pad_id: int) -> None:
        self.pad_id, self.tokens = pad_id, 0

    def __call__(self, *, completions: Any, completion_ids: Any, **_: Any) -> list[float]:
        """Return one reward for each completion."""
        self.tokens += sum(token != self.pad_id for ids in completion_ids for token in ids)
        return [len(completion[0]["content"]) / 100 for completion in completions]


def run(config: PolicyConfig, model: Path, pairs: Sequence[PreferencePair]) -> PolicyMeasured:
    """Train on the pairs' prompts, in our side's order; return the seconds of each step.

    Raises:
        DataError: TRL's token ids of a prompt are not ours.
        SettingsError: a method that TRL does not have.
    """
    chat, tokenizer = load_chat(model), AutoTokenizer.from_pretrained(str(model))
    check_same_prompts(tokenizer, pairs, chat)
    rows = [{"prompt": turns(pair.prompt.messages)} for pair in in_our_order(config, chat, pairs)]
    reward, clock = Characters(tokenizer.pad_token_id), StepClock()
    with tempfile.TemporaryDirectory() as scratch:
        kind, arguments = TRAINERS[config.method](config, shared_flags(config, Path(scratch)))
        trainer = kind(
            model=AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32),
            reward_funcs=reward,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = config.warmup + config.steps
    if len(clock.seconds) != steps:
        raise DataError(f"benchmark: TRL made {len(clock.seconds)} of {steps} steps. Compare none.")
    prompts = sum(len(chat.prompt_ids(pair.prompt)) for pair in pairs)
    return PolicyMeasured(
        step_s=clock.seconds[config.warmup :],
        parts_s={},
        stream_tokens=(prompts + reward.tokens) / steps,
        new_tokens=reward.tokens / steps,
    )


def shared_flags(config: PolicyConfig, scratch: Path) -> dict[str, Any]:
    """Return the arguments that all trainers take, without the size of a forward."""
    return {
        "output_dir": str(scratch),
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
        "max_steps": config.warmup + config.steps,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "temperature": 1.0,
        "top_k": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": 0,
    }


def in_parts(config: PolicyConfig, whole: int) -> dict[str, int]:
    """Return how many of a step's rows go through in one forward, and how often."""
    micro = config.micro or whole
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": whole // micro,
    }


def fresh_flags(config: PolicyConfig) -> dict[str, Any]:
    """Return what RLOO and GRPO take: responses of a step, their length, the leash."""
    return {
        **in_parts(config, config.responses),
        "num_generations": config.samples,
        "max_completion_length": NEW_TOKENS,
        "beta": BETA,
        "shuffle_dataset": False,
    }


def rloo(config: PolicyConfig, flags: dict[str, Any]) -> tuple[Any, Any]:
    """Return TRL's RLOO trainer and its arguments."""
    return RLOOTrainer, RLOOConfig(**flags, **fresh_flags(config))


def grpo(config: PolicyConfig, flags: dict[str, Any]) -> tuple[Any, Any]:
    """Return TRL's GRPO trainer and its arguments."""
    return GRPOTrainer, GRPOConfig(**flags, **fresh_flags(config))


def online(config: PolicyConfig, flags: dict[str, Any]) -> tuple[Any, Any]:
    """Return TRL's online DPO trainer and its arguments; it draws two responses to each prompt.

    Raises:
        SettingsError: another number of responses is wanted.
    """
    if config.samples != 2:
        raise SettingsError("benchmark: TRL's online DPO draws 2 responses. Use --samples 2.")
    arguments = OnlineDPOConfig(
        **flags,
        **in_parts(config, config.prompts),
        max_new_tokens=NEW_TOKENS,
        max_length=MAX_LENGTH + NEW_TOKENS,
        train_sampling_strategy="sequential",
    )
    return OnlineDPOTrainer, arguments


TRAINERS = {"rloo": rloo, "grpo": grpo, "online": online}


def check_same_prompts(tokenizer: Any, pairs: Sequence[PreferencePair], chat: Chat) -> None:
    """Stop unless TRL's way to token ids gives ours, prompt by prompt.

    Raises:
        DataError: with the first prompt that differs.
    """
    for pair in pairs:
        theirs = tokenizer.apply_chat_template(
            turns(pair.prompt.messages), add_generation_prompt=True, return_dict=False
        )
        if tuple(theirs) != chat.prompt_ids(pair.prompt):
            raise DataError(f"benchmark: {pair.id}: TRL's ids of the prompt are not ours.")
