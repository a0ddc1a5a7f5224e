"""Measure how fast one side writes replies, and print it as one line of JSON.

python -m benchmarks.generate_worker --side ours --model S --data pairs.jsonl
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.config import add_flags, from_flags
from benchmarks.machine import Load, peak_mb, processor, versions
from benchmarks.results import one_line
from benchmarks.worker import NO_NETWORK
from preftune.errors import PreftuneError, SettingsError

ROWS = 32  # replies written together
NEW_TOKENS = 64  # of each; nothing ends before
Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Who writes how many replies to each prompt.

    Of `flags`, best is our side as it is and transformers as it comes, with its growing cache;
    static is transformers with its static cache, eager with its plain attention.
    """

    side: Literal["transformers", "ours"]
    model: Literal["S", "M"] = "S"
    precision: Literal["fp32", "bf16"] = "fp32"
    samples: int = 1  # replies to each prompt; 32 in all
    flags: Literal["best", "static", "eager"] = "best"
    epochs: int = 3  # timed ones, each writes all replies
    warmup: int = 1  # epochs before them

    def __post_init__(self) -> None:
        if ROWS % self.samples or (self.side == "ours" and self.flags != "best"):
            raise SettingsError(
                f"{self.side} does not take {self.flags} with {self.samples} samples. See --help."
            )

    @property
    def label(self) -> str:
        """Name of the configuration."""
        parts = [self.side, "generate", self.model, self.precision, f"n{self.samples}"]
        return "-".join([*parts, self.flags] if self.flags != "best" else parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateResult:
    """What it took."""

    config: GenerateConfig
    prompt_tokens: int  # each prompt once
    new_tokens: int  # of one epoch
    epoch_s: list[float]  # timed epochs only
    peak_mb: float
    foreign_cores: float
    threads: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> list[float]:
        """New tokens per second of each timed epoch."""
        return [self.new_tokens / seconds for seconds in self.epoch_s]


def prompts_for(config: GenerateConfig, data: Path, cache: Path) -> tuple[Path, list[Ids]]:
    """Return the folder of the model, made where it is missing, and the prompts as ids.

    The prompts are those of pairs spread evenly over the lengths, see `data.stratified`.
    """
    from benchmarks.data import stratified, texts_of, usable_pairs
    from benchmarks.models import make_model
    from preftune.models.chat import load_chat

    pairs = usable_pairs(data)
    model = make_model(config.model, texts_of(pairs), cache / config.model)
    chat = load_chat(model)
    count = ROWS // config.samples
    drawn = stratified(pairs, chat, count=count, batch=count)
    return model, [chat.prompt_ids(pair.prompt) for pair in drawn]


def ours(config: GenerateConfig, model: Any, prompts: Sequence[Ids]) -> Callable[[int], int]:
    """Return what writes all replies from a seed with our side and says how many tokens."""
    from preftune.inference.generate import GenerateSettings, generate

    rows = [prompt for prompt in prompts for _ in range(config.samples)]
    settings = GenerateSettings(max_new_tokens=NEW_TOKENS, batch_size=ROWS)

    def write(seed: int) -> int:
        seeds = range(ROWS * seed, ROWS * (seed + 1))
        drawn = generate(model, rows, settings, seeds=seeds, end_ids=(), pad_id=0)
        return sum(len(reply.ids) for reply in drawn)

    return write


def transformers(
    config: GenerateConfig, model: Any, prompts: Sequence[Ids]
) -> Callable[[int], int]:
    """Return the same with transformers' own `generate`, prompts padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([(0,) * (longest - len(prompt)) + prompt for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    model.generation_config.eos_token_id = None  # so that nothing ends a reply
    extra: dict[str, Any] = {"cache_implementation": "static"} if config.flags == "static" else {}

    def write(seed: int) -> int:
        torch.manual_seed(seed)
        written = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            do_sample=True,
            top_k=0,
            num_return_sequences=config.samples,
            pad_token_id=0,
            **extra,
        )
        return int((written.shape[1] - longest) * written.shape[0])

    return write


def measure(config: GenerateConfig, folder: Path, prompts: Sequence[Ids]) -> GenerateResult:
    """Write all replies again and again in this process and return what it took."""
    import torch
    from transformers import AutoModelForCausalLM

    load = Load()
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision],
        attn_implementation="eager" if config.flags == "eager" else "sdpa",
    ).eval()
    write = (ours if config.side == "ours" else transformers)(config, model, prompts)
    seconds, tokens = [], 0
    for seed in range(config.warmup + config.epochs):
        began = time.perf_counter()
        tokens = write(seed)
        seconds.append(time.perf_counter() - began)
    return GenerateResult(
        config=config,
        prompt_tokens=sum(map(len, prompts)),
        new_tokens=tokens,
        epoch_s=seconds[config.warmup :],
        peak_mb=peak_mb(),
        foreign_cores=load.foreign_cores(),
        threads=torch.get_num_threads(),
        processor=processor(),
        versions=versions(),
    )


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, GenerateConfig)
    parser.add_argument("--data", type=Path, required=True, help="pairs to take prompts from")
    parser.add_argument("--cache", type=Path, required=True, help="folder of models")
    arguments = parser.parse_args()
    os.environ.update(NO_NETWORK)
    try:
        config = from_flags(arguments, GenerateConfig)
        folder, prompts = prompts_for(config, arguments.data, arguments.cache)
        print(one_line(measure(config, folder, prompts)))
    except PreftuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
