"""Policy optimisation: what is run, on which prompts, and what is set against what."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.contests import Goal
from benchmarks.data import stratified, texts_of, usable_pairs
from benchmarks.models import make_model
from preftune.datasets.write import write_records
from preftune.errors import DataError
from preftune.models.chat import Chat, load_chat
from preftune.types import PreferencePair, assistant

NEW_TOKENS = 64  # the longest response
EVEN = 128  # prompt tokens, where all prompts are of one length
Method = Literal["sft", "dpo", "ppo", "rloo", "grpo", "online"]

RATIO_TO_SFT = Goal(must=1.35, aim=1.2)  # peak memory, less is better
RATIO_TO_COPIES = Goal(must=0.45, aim=0.4)  # the same
STEP_SPEED = Goal(must=2.5, aim=4.0)  # TRL's seconds a step / ours
UPDATE_SPEED = Goal(must=0.95, aim=1.0)  # tokens/s of an update / of DPO; 0.95: equal but for noise


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """What is run. Each field is a flag of the worker; one left out has its default.

    With `weights` full every role that exists has a copy of its own; with lora all share one; apart
    is lora with three more copies of the base held in memory, which is the least that four roles
    with an adapter each would take if they shared nothing.
    """

    side: Literal["ours", "trl"]
    method: Method
    model: Literal["S", "M"] = "S"
    weights: Literal["full", "lora", "apart"] = "full"
    prompts: int = 8  # of a step
    samples: int = 1  # responses to each
    minibatches: int = 1  # optimiser steps of a pass over the responses
    updates: int = 1  # passes
    prompt_tokens: int = 0  # of each prompt; 0: spread evenly over the lengths
    micro: int = 0  # TRL's responses (online: prompts) per forward; 0: all of a step
    thp: bool = False  # glibc asks for huge pages
    returned: bool = False  # freed blocks above 1 MiB go back to the kernel at once
    steps: int = 8  # timed ones
    warmup: int = 2  # steps before them

    @property
    def responses(self) -> int:
        """Responses of a step."""
        return self.prompts * self.samples

    @property
    def passes(self) -> int:
        """How often a step's update goes through the step's tokens, forward and backward."""
        return self.updates * (2 if self.method == "ppo" else 1)

    @property
    def label(self) -> str:
        """Name of the configuration; results are found by it."""
        shape = f"{self.prompts}x{self.samples}"
        parts = [self.side, self.method, self.model, self.weights, shape]
        if self.updates * self.minibatches > 1:
            parts.append(f"u{self.updates}m{self.minibatches}")
        parts += [f"p{self.prompt_tokens}"] if self.prompt_tokens else []
        parts += [f"mb{self.micro or 'all'}"] if self.side == "trl" else []
        parts += [name for name in ("thp", "returned") if getattr(self, name)]
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyMeasured:
    """What one side reports of one run."""

    step_s: list[float]  # timed steps only
    parts_s: dict[str, list[float]]  # the parts of the same steps; TRL reports none
    stream_tokens: float  # of a step, a prompt once for all responses to it
    new_tokens: float  # written in a step


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyResult:
    """One run with all that one must know to judge it."""

    config: PolicyConfig
    measured: PolicyMeasured
    peak_mb: float
    foreign_cores: float
    threads: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)


def memory_runs() -> list[PolicyConfig]:
    """Return LoRA SFT and PPO with four roles: in one copy, with four idle ones, in four copies.

    The second PPO takes two optimiser steps per pass, as its settings do by default: half of the
    responses per forward. The first three are run again with freed memory returned: what a process
    holds is then what its tensors take, without the holes between them.
    """
    ppo = PolicyConfig(
        side="ours",
        method="ppo",
        model="M",
        weights="lora",
        updates=2,
        prompt_tokens=EVEN,
        steps=1,
        warmup=0,
    )
    sft = dataclasses.replace(ppo, method="sft", updates=1)
    kept = [
        sft,
        ppo,
        dataclasses.replace(ppo, minibatches=2),
        dataclasses.replace(ppo, weights="apart"),
        dataclasses.replace(ppo, weights="full"),
    ]
    return [*kept, *(dataclasses.replace(run, returned=True) for run in kept if run != kept[2])]


def update_runs() -> list[list[PolicyConfig]]:
    """Return DPO, RLOO and PPO on two responses to each prompt, for each model."""
    dpo = PolicyConfig(side="ours", method="dpo", samples=2, prompt_tokens=EVEN, steps=6, warmup=2)
    lora = dataclasses.replace(dpo, model="M", weights="lora", steps=2, warmup=1)
    return [
        [
            one,
            dataclasses.replace(one, method="rloo"),
            dataclasses.replace(one, method="ppo", updates=2, minibatches=2),
        ]
        for one in (dpo, lora)
    ]


def step_runs() -> list[list[PolicyConfig]]:
    """Return our side and TRL's with each setting that may be its fastest, for each method."""
    rloo = PolicyConfig(side="ours", method="rloo", prompts=2, samples=4)
    grpo = dataclasses.replace(rloo, method="grpo")
    online = dataclasses.replace(rloo, method="online", prompts=8, samples=2)
    return [
        [ours, trl, dataclasses.replace(trl, micro=2), dataclasses.replace(trl, thp=True)]
        for ours in (rloo, online, grpo)
        for trl in [dataclasses.replace(ours, side="trl")]
    ]


def material(config: PolicyConfig, data: Path, cache: Path) -> tuple[Path, Path]:
    """Return the folder of the model and the file of its pairs, made where they are missing.

    Args:
        config: names the model and how many prompts of what length.
        data: hh-harmless, or any other file of pairs, that prompts are taken from.
        cache: folder that both are kept in.
    """
    count = config.prompts * (config.warmup + config.steps)
    model = cache / config.model
    file = cache / f"{config.model}-policy-{config.prompt_tokens}-{config.prompts}-{count}.jsonl"
    if model.is_dir() and file.exists():
        return model, file
    found = usable_pairs(data)
    chat = load_chat(make_model(config.model, texts_of(found), model))
    once = list({pair.prompt.messages: pair for pair in found}.values())
    if config.prompt_tokens:
        write_records(file, of_like_length(once, chat, tokens=config.prompt_tokens, count=count))
    else:
        write_records(file, stratified(once, chat, count=count, batch=config.prompts))
    return model, file


def of_like_length(
    pairs: list[PreferencePair], chat: Chat, *, tokens: int, count: int
) -> list[PreferencePair]:
    """Return pairs with the prompts nearest to a length, and responses of about `NEW_TOKENS`.

    The responses are cut from the texts of all pairs, put one behind the other.

    Raises:
        DataError: fewer than `count` pairs.
    """
    if len(pairs) < count:
        raise DataError(f"{len(pairs)} prompts, {count} are wanted. Give a larger file.")
    near = sorted(pairs, key=lambda pair: abs(len(chat.prompt_ids(pair.prompt)) - tokens))[:count]
    length = NEW_TOKENS - 2  # the turn's own end, and what cutting adds
    corpus, ids = itertools.cycle(texts_of(pairs)), list[int]()
    while len(ids) < 2 * count * length:
        ids += chat.tokenizer(next(corpus), add_special_tokens=False)["input_ids"]
    parts = [
        assistant(chat.tokenizer.decode(ids[start : start + length]).strip())
        for start in range(0, 2 * count * length, length)
    ]
    return [
        dataclasses.replace(pair, chosen=(parts[2 * n],), rejected=(parts[2 * n + 1],))
        for n, pair in enumerate(near)
    ]
