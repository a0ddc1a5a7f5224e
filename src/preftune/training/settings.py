"""All one can turn in training; groups shared by the methods, then one class per method."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from preftune.engine.settings import OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.lora import LoraSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Where a run lives and how it is kept."""

    out: Annotated[Path, Meta(description="Run folder; an unfinished run in it goes on.")]
    seed: Annotated[int, Meta(ge=0, description="Seed of order, dropout and new weights.")] = 0
    save_every: Annotated[int, Meta(ge=1, description="Steps between checkpoints.")] = 100
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0 leaves torch's choice.")] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthSettings:
    """What happens to rows that are too long: never cut in silence."""

    max_length: Annotated[
        int, Meta(ge=0, description="Tokens of prompt + response; 0: what the model can hold.")
    ] = 0
    on_long: Annotated[
        Literal["stop", "drop", "cut-prompt"],
        Meta(description="Rows over max_length: stop, drop them, or cut the prompt's start."),
    ] = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSettings:
    """Fresh samples while training: the only honest measure of KL and of length drift."""

    probe_every: Annotated[
        int, Meta(ge=0, description="Steps between probes of KL and length; 0: never.")
    ] = 0
    probe_prompts: Annotated[int, Meta(ge=1, description="Prompts sampled by a probe.")] = 32
    probe_tokens: Annotated[int, Meta(ge=1, description="Longest probed reply.")] = 128
    kl_alarm: Annotated[float, Meta(gt=0, description="Warn above this KL, nats a reply.")] = 1.5
    kl_stop: Annotated[
        float, Meta(ge=0, description="End the run above this KL, nats a reply; 0: never.")
    ] = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SftSettings:
    """Supervised fine-tuning: imitate the response of each row."""

    model: Annotated[str, Meta(description="Hugging Face folder or hub id to start from.")]
    data: Annotated[Path, Meta(description="Rows to imitate, in any format preftune reads.")]
    train_on: Annotated[
        Literal["last", "all"],
        Meta(description="Train on the response only, or on all assistant turns."),
    ] = "last"
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """A Bradley–Terry reward model from preference pairs."""

    model: Annotated[str, Meta(description="Decoder or encoder folder to start from.")]
    data: Annotated[Path, Meta(description="Preference pairs, in any format preftune reads.")]
    held_out: Annotated[Path | None, Meta(description="Pairs to report accuracy on.")] = None
    label: Annotated[
        Literal["hard", "soft", "margin"],
        Meta(description="Use pairs as they are, their probability, or their strength as margin."),
    ] = "hard"
    margin_per_strength: Annotated[
        float, Meta(gt=0, description="Margin of one level of strength; only with label margin.")
    ] = 1 / 3
    centring: Annotated[
        float, Meta(ge=0, description="Weight of (chosen + rejected)^2; keeps scores near 0.")
    ] = 0.01
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _only_with(self, "margin_per_strength", "label", "margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectSettings:
    """Direct preference optimisation (DPO), with an optional NLL term on the chosen response."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[Path, Meta(description="Preference pairs, in any format preftune reads.")]
    held_out: Annotated[Path | None, Meta(description="Pairs to report accuracy on.")] = None
    beta: Annotated[float, Meta(gt=0, description="Pull towards the reference.")] = 0.1
    nll_weight: Annotated[
        float, Meta(ge=0, description="Weight of the chosen responses' NLL per token.")
    ] = 0.0
    label: Annotated[
        Literal["hard", "soft", "offset"],
        Meta(description="Use pairs as they are, their probability, or their strength as offset."),
    ] = "hard"
    offset_per_strength: Annotated[
        float, Meta(gt=0, description="Offset of one level of strength; only with label offset.")
    ] = 0.2
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)

    def __post_init__(self) -> None:
        _only_with(self, "offset_per_strength", "label", "offset")


def _only_with(
    settings: RewardSettings | DirectSettings, name: str, switch: str, value: str
) -> None:
    """Refuse a setting that would change nothing because its switch is elsewhere."""
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    if getattr(settings, switch) != value and getattr(settings, name) != default:
        raise SettingsError(f"{name} changes nothing unless {switch} is {value}. Leave one out.")
