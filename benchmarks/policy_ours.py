"""Our side of policy optimisation: the runs of `preftune train`, read from their folder."""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.policy_runs import NEW_TOKENS, PolicyConfig, PolicyMeasured
from preftune.datasets.write import write_records
from preftune.engine.batches import Order
from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.graders.scorer import Answer, FunctionScorer, Scorer
from preftune.inference.combine import CombineSettings
from preftune.inference.reward_scorer import load_scorer
from preftune.models.chat import Chat, load_chat
from preftune.models.heads import new_reward_model, save_reward_model
from preftune.models.load import load_policy
from preftune.models.lora import LoraSettings
from preftune.training import direct, online, ppo, rft, sft
from preftune.training.logs import read_rows
from preftune.training.policy_settings import (
    LeashSettings,
    OnlineSettings,
    PpoSettings,
    RftSettings,
    RolloutSettings,
    UpdateSettings,
    WatchSettings,
)
from preftune.training.settings import DirectSettings, RunSettings, SftSettings
from preftune.training.shared_rewards import SharedRewards
from preftune.types import Demonstration, Message, PreferencePair, Prompt, text_of

RANK = 16
COPIES = 3  # of the base, beside the one that is used: policy, reference, value, reward are four
SCORED = "reward"  # the part of a step that scores responses


@dataclass(kw_only=True, slots=True)
class Timed:
    """A scorer that counts the seconds of each call."""

    scorer: Scorer
    seconds: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The scorer's own name."""
        return self.scorer.name

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return what the scorer says."""
        began = time.perf_counter()
        found = self.scorer.score(rows)
        self.seconds.append(time.perf_counter() - began)
        return found


class TimedShared(SharedRewards):
    """A reward model on the policy's base that counts the seconds of each call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folders=(str(folder),), how=CombineSettings())
        self.seconds: list[float] = []

    def score(self, rows: Sequence[Answer]) -> list[float | None]:
        """Return the scores of the reward model."""
        began = time.perf_counter()
        found = super().score(rows)
        self.seconds.append(time.perf_counter() - began)
        return found


def run(config: PolicyConfig, model: Path, pairs: Sequence[PreferencePair]) -> PolicyMeasured:
    """Train on the pairs' prompts; return the seconds of each step and of its parts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, out = folder / "data.jsonl", folder / "run"
        held = [load_policy(model) for _ in range(COPIES if config.weights == "apart" else 0)]
        scorer = scorer_of(config, model, folder)
        if config.method == "sft":
            rows = (Demonstration(id=p.id, prompt=p.prompt, response=p.chosen) for p in pairs)
            write_records(data, rows)
        else:
            write_records(data, pairs)
        train(config, model, data=data, out=out, scorer=scorer)
        del held
        timing, metrics = (read_rows(out / f"{name}.jsonl") for name in ("timing", "metrics"))
    parts = parts_of(timing, scorer)
    mean_length = statistics.fmean(row.get("length_tokens", 0.0) for row in metrics)
    return PolicyMeasured(
        step_s=[row["seconds"] for row in timing][config.warmup :],
        parts_s={name: spent[config.warmup :] for name, spent in parts.items()},
        stream_tokens=stream_tokens(config, load_chat(model), pairs, mean_length),
        new_tokens=mean_length * config.responses,
    )


def scorer_of(config: PolicyConfig, model: Path, folder: Path) -> Timed | TimedShared | None:
    """Return what scores: a fresh reward model for PPO, the length in characters for the others.

    Under LoRA the reward model is an adapter and a head on the policy's base, else a copy.
    """
    if config.method in ("sft", "dpo"):
        return None
    if config.method != "ppo":
        return Timed(scorer=FunctionScorer(name="characters", function=characters))
    lora = adapter(config)
    place = folder / "reward"
    save_reward_model(new_reward_model(model, seed=1, lora=lora), load_chat(model), place)
    return TimedShared(place) if lora.lora_rank else Timed(scorer=load_scorer([place]))


def characters(_: Prompt, response: tuple[Message, ...]) -> float:
    """Return the length of a response, in hundreds of characters."""
    return len(text_of(response)) / 100


def train(
    config: PolicyConfig, model: Path, *, data: Path, out: Path, scorer: Scorer | None
) -> None:
    """Make a whole run as the command line would."""
    shared: dict[str, Any] = {
        "model": str(model),
        "data": data,
        "run": RunSettings(out=out, save_every=1000),
        "optimizer": optimizer(config),
        "engine": EngineSettings(precision="fp32"),
        "lora": adapter(config),
    }
    if config.method == "sft":
        sft.train(SftSettings(**shared))
        return
    if config.method == "dpo":
        direct.train(DirectSettings(**shared, nll_weight=0.0))
        return
    shared |= {
        "rollout": RolloutSettings(samples=config.samples, max_new_tokens=NEW_TOKENS),
        "watch": WatchSettings(watch_every=0),
    }
    if config.method == "online":
        online.train(OnlineSettings(**shared), scorer=scorer)
        return
    shared["update"] = UpdateSettings(updates=config.updates, minibatches=config.minibatches)
    if config.method == "ppo":
        ppo.train(PpoSettings(**shared), scorer=scorer)
    elif config.method == "grpo":
        in_loss = LeashSettings(kl_in="loss", kl_estimator="k3")
        rft.train(RftSettings(**shared, advantage="grpo", leash=in_loss), scorer=scorer)
    else:
        rft.train(RftSettings(**shared), scorer=scorer)


def adapter(config: PolicyConfig) -> LoraSettings:
    """Return the adapter of a configuration, of rank 0 where all weights are trained."""
    return LoraSettings() if config.weights == "full" else LoraSettings(lora_rank=RANK)


def optimizer(config: PolicyConfig) -> OptimizerSettings:
    """Return TRL's AdamW: beta2 .999, no decay, a constant learning rate, clipping at 1."""
    return OptimizerSettings(
        lr=1e-6,
        batch_size=config.prompts,
        schedule="constant",
        warmup_frac=0.0,
        adam_beta2=0.999,
    )


def in_our_order(
    config: PolicyConfig, chat: Chat, pairs: Sequence[PreferencePair]
) -> list[PreferencePair]:
    """Return the pairs as our steps take their prompts, one step's after the other."""
    lengths = [len(chat.prompt_ids(pair.prompt)) for pair in pairs]
    order = Order.of_lengths(lengths, optimizer(config), seed=0)
    return [pairs[row] for batch in order.batches() for row in batch]


def parts_of(
    timing: Sequence[dict[str, float]], scorer: Timed | TimedShared | None
) -> dict[str, list[float]]:
    """Return the seconds of each part of each step; scoring is told apart from drawing."""
    names = {name for row in timing for name in row} - {"step", "seconds"}
    parts = {name: [row.get(name, 0.0) for row in timing] for name in sorted(names)}
    if scorer is not None:
        parts[SCORED] = scorer.seconds
        parts["rollout"] = [
            both - scored for both, scored in zip(parts["rollout"], scorer.seconds, strict=True)
        ]
    return parts


def stream_tokens(
    config: PolicyConfig, chat: Chat, pairs: Sequence[PreferencePair], mean_length: float
) -> float:
    """Return the tokens of a step's stream: each prompt once, and all responses to it."""
    prompts = sum(len(chat.prompt_ids(pair.prompt)) for pair in pairs) / len(pairs)
    if mean_length:
        return config.prompts * prompts + config.responses * mean_length
    sides = [(p.chosen,) if config.method == "sft" else (p.chosen, p.rejected) for p in pairs]
    own = sum(
        len(chat.encode(pair.prompt, answer).response_ids)
        for pair, answers in zip(pairs, sides, strict=True)
        for answer in answers
    )
    return config.prompts * (prompts + own / len(pairs))
