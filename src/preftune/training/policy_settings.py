"""Settings of policy optimisation: rollouts, where rewards come from, the leash, the updates."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.lora import LoraSettings
from preftune.training.settings import RunSettings, VariantSettings

ONE_STEP = "each batch of rollouts is used for one optimiser step"

KlEstimator = Literal["k1", "k2", "k3", "k3+"]
Advantage = Literal["rloo", "grpo", "dr-grpo", "reinforce++", "reinforce++-baseline"]
Reduction = Literal["token-mean", "sequence-mean", "sequence-sum", "dr-grpo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """Fresh responses of the policy, drawn at each step."""

    samples: Annotated[int, Meta(ge=1, description="Responses drawn for each prompt.")] = 4
    max_new_tokens: Annotated[int, Meta(gt=0, description="Longest response, in tokens.")] = 256
    temperature: Annotated[
        float, Meta(gt=0, description="Of the draws; the policy is trained at the same one.")
    ] = 1.0
    rollout_url: Annotated[
        str, Meta(description="Completions server (vLLM) that draws; empty: this process.")
    ] = ""
    rollout_key_env: Annotated[
        str, Meta(description="Environment variable with the key of rollout_url.")
    ] = ""
    max_staleness: Annotated[
        int, Meta(ge=0, description="Steps that a server's weights may lag behind.")
    ] = 0
    served_logprobs: Annotated[
        Literal["raw", "processed"],
        Meta(description="Log-probs of the server: before its temperature, or after it."),
    ] = "raw"

    def __post_init__(self) -> None:
        if not self.rollout_url:
            names = ("rollout_key_env", "max_staleness", "served_logprobs")
            _at_default(self, names, "responses are drawn in this process (no rollout_url)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardingSettings:
    """Where rewards come from. Reward models are combined; a grader stands alone."""

    reward: Annotated[
        tuple[str, ...], Meta(description="Reward model folders; give it again for several.")
    ] = ()
    grader: Annotated[
        Path | None, Meta(description="Grader file (YAML or JSON) instead of a reward model.")
    ] = None
    grader_url: Annotated[
        str, Meta(description="OpenAI-compatible URL of the models that a grader asks.")
    ] = ""
    grader_key_env: Annotated[
        str, Meta(description="Environment variable with the key of grader_url.")
    ] = ""
    combine: Annotated[
        Path | None, Meta(description="YAML file that says how several reward models combine.")
    ] = None
    missing_eos_penalty: Annotated[
        float, Meta(ge=0, description="Taken from the reward of a response that did not end.")
    ] = 0.0
    reward_clip: Annotated[
        float, Meta(ge=0, description="Rewards are cut to [-this, this]; 0: never.")
    ] = 0.0

    def __post_init__(self) -> None:
        if self.combine is not None and not self.reward:
            raise SettingsError("combine changes nothing without reward models. Leave it out.")
        if self.grader_key_env and not self.grader_url:
            raise SettingsError("grader_key_env changes nothing without grader_url. Give both.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeashSettings:
    """The pull towards the reference: without it every reward model is gamed in the end."""

    kl_coef: Annotated[
        float, Meta(ge=0, description="Price of a nat of KL to the reference; 0: no leash.")
    ] = 0.05
    kl_estimator: Annotated[
        KlEstimator,
        Meta(description="k1, k2, k3 of a token, or k3+: the value of k3, the gradient of k2."),
    ] = "k1"
    kl_in: Annotated[
        Literal["reward", "loss"], Meta(description="KL is taken from rewards, or added to losses.")
    ] = "reward"
    kl_target: Annotated[
        float, Meta(ge=0, description="Nats a response that kl_coef is steered to; 0: it is fixed.")
    ] = 0.0
    kl_horizon: Annotated[
        int, Meta(gt=0, description="Responses over which kl_coef follows kl_target.")
    ] = 10_000

    def __post_init__(self) -> None:
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise SettingsError(
                "kl_estimator k1 has no gradient on average as a loss. Use k2 or k3+, or "
                "kl_in reward."
            )
        if self.kl_in == "reward" and self.kl_estimator == "k3+":
            raise SettingsError("kl_estimator k3+ is k3 in a reward. Use k3, or kl_in loss.")
        if not self.kl_coef:
            _at_default(self, ("kl_estimator", "kl_in", "kl_target"), "kl_coef is 0")
        if not self.kl_target:
            _at_default(self, ("kl_horizon",), "kl_target is 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class KlLimits:
    """How far a policy may go from its reference."""

    kl_alarm: Annotated[
        float, Meta(gt=0, description="Warn above this sampled KL, nats a response.")
    ] = 1.5
    kl_stop: Annotated[
        float, Meta(ge=0, description="End the run above this sampled KL; 0: never.")
    ] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateSettings:
    """What is learnt from a batch of rollouts."""

    updates: Annotated[int, Meta(ge=1, description="Passes over each batch of rollouts.")] = 1
    minibatches: Annotated[int, Meta(ge=1, description="Optimiser steps per pass.")] = 1
    clip_low: Annotated[
        float, Meta(gt=0, lt=1, description="How far a ratio may fall before its gradient stops.")
    ] = 0.2
    clip_high: Annotated[
        float, Meta(gt=0, description="How far a ratio may rise before its gradient stops.")
    ] = 0.2
    dual_clip: Annotated[
        float, Meta(ge=0, description="Bound on losses of bad tokens (above 1); 0: none.")
    ] = 0.0
    reduction: Annotated[
        Reduction, Meta(description="How token losses become one: what long responses weigh.")
    ] = "token-mean"
    update_kl_stop: Annotated[
        float, Meta(ge=0, description="End a step's updates above this KL to its start; 0: never.")
    ] = 0.0
    importance_cap: Annotated[
        float,
        Meta(ge=1, description="Most that a token weighs when sampler and trainer disagree."),
    ] = 2.0

    def __post_init__(self) -> None:
        if 0 < self.dual_clip <= 1:
            raise SettingsError(f"dual_clip is {self.dual_clip}. Use a number above 1, or 0.")
        if self.updates * self.minibatches == 1:
            names = ("clip_low", "clip_high", "dual_clip", "update_kl_stop")
            _at_default(self, names, ONE_STEP)


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchSettings:
    """Fresh samples on prompts of their own: is the reward model being gamed?"""

    watch_every: Annotated[
        int, Meta(ge=0, description="Steps between looks at fresh samples; 0: never.")
    ] = 10
    watch_prompts: Annotated[int, Meta(ge=2, description="Prompts sampled at each look.")] = 64
    watch_data: Annotated[
        Path | None, Meta(description="Prompts to look at; default: some of the training's.")
    ] = None
    audit: Annotated[
        Path | None,
        Meta(description="Gold: a grader file or reward model that training never sees."),
    ] = None
    stop_on_alarm: Annotated[
        bool, Meta(description="End at the best look so far when rewards rise and gold falls.")
    ] = True

    def __post_init__(self) -> None:
        if not self.watch_every:
            names = ("watch_prompts", "watch_data", "audit", "stop_on_alarm")
            _at_default(self, names, "watch_every is 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RftSettings:
    """Reinforcement fine-tuning without a value model: RLOO, GRPO, REINFORCE++."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[Path, Meta(description="Prompts, in any format preftune reads.")]
    advantage: Annotated[
        Advantage, Meta(description="What a response is compared with: see docs/rft.md.")
    ] = "rloo"
    run: RunSettings
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    rewarding: RewardingSettings = field(default_factory=RewardingSettings)
    leash: LeashSettings = field(default_factory=LeashSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    limits: KlLimits = field(default_factory=KlLimits)
    watch: WatchSettings = field(default_factory=WatchSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _refuse_what_no_rollout_fits(self.lora, self.rollout)
        if self.rollout.samples < 2 and self.advantage != "reinforce++":
            raise SettingsError(
                f"samples is 1, and {self.advantage} compares the responses to one prompt. "
                "Use 2 or more, or --advantage reinforce++."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueSettings:
    """The value model: what reward to expect from each token on."""

    gamma: Annotated[float, Meta(gt=0, le=1, description="Discount per token.")] = 1.0
    gae_lambda: Annotated[
        float, Meta(ge=0, le=1, description="1: whole returns; 0: one step ahead.")
    ] = 0.95
    value_clip: Annotated[
        float, Meta(gt=0, description="How far a value may move in one step's updates.")
    ] = 0.2
    value_lr_factor: Annotated[
        float, Meta(gt=0, description="Learning rate of the value model, times lr.")
    ] = 2.0
    critic_warmup: Annotated[
        int, Meta(ge=0, description="First steps in which the value model alone learns.")
    ] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PpoSettings:
    """Proximal policy optimisation with a value model, in one copy of the weights."""

    model: Annotated[
        str, Meta(description="The SFT model: where policy and value start, and the reference.")
    ]
    data: Annotated[Path, Meta(description="Prompts, in any format preftune reads.")]
    run: RunSettings
    rollout: RolloutSettings = field(default_factory=lambda: RolloutSettings(samples=1))
    rewarding: RewardingSettings = field(default_factory=RewardingSettings)
    leash: LeashSettings = field(default_factory=LeashSettings)
    value: ValueSettings = field(default_factory=ValueSettings)
    update: UpdateSettings = field(default_factory=lambda: UpdateSettings(updates=2, minibatches=2))
    limits: KlLimits = field(default_factory=KlLimits)
    watch: WatchSettings = field(default_factory=WatchSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _refuse_what_no_rollout_fits(self.lora, self.rollout)
        if self.update.updates * self.update.minibatches == 1:
            _at_default(self.value, ("value_clip",), ONE_STEP)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineSettings:
    """Online DPO: fresh pairs of the current policy at every step, judged, and learnt from."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[Path, Meta(description="Prompts, in any format preftune reads.")]
    loss: Annotated[
        str, Meta(description="A loss on pairs, or a weighted sum, as of `train direct`.")
    ] = "sigmoid"
    beta: Annotated[
        float | None, Meta(description="Pull towards the reference; None: the loss's own (0.1).")
    ] = None
    nll_weight: Annotated[
        float, Meta(ge=0, description="Weight of the better responses' NLL per token.")
    ] = 0.0
    least_gap: Annotated[
        float, Meta(ge=0, description="Best and worst closer than this in reward make no pair.")
    ] = 0.0
    run: RunSettings
    rollout: RolloutSettings = field(default_factory=lambda: RolloutSettings(samples=2))
    rewarding: RewardingSettings = field(default_factory=RewardingSettings)
    variant: VariantSettings = field(default_factory=VariantSettings)
    limits: KlLimits = field(default_factory=KlLimits)
    watch: WatchSettings = field(default_factory=WatchSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _refuse_what_no_rollout_fits(self.lora, self.rollout)
        if self.rollout.samples < 2:
            raise SettingsError("samples is 1: a pair needs two responses. Use 2 or more.")


def _refuse_what_no_rollout_fits(lora: LoraSettings, rollout: RolloutSettings) -> None:
    if rollout.rollout_url and not lora.lora_rank:
        raise SettingsError(
            "rollout_url: only an adapter can be sent to a server at every step. Give --lora-rank."
        )
    if lora.lora_dropout:
        raise SettingsError(
            "lora_dropout: rollouts are drawn without it, so that updates would start from "
            "another policy. Leave it 0."
        )


def _at_default(settings: Any, names: tuple[str, ...], why: str) -> None:
    """Refuse settings that would change nothing."""
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise SettingsError(f"{name} changes nothing while {why}. Leave it out.")
