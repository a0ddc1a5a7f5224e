"""Settings of the methods that read more than pairs: reward models, single responses, rankings."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.lora import LoraSettings
from preftune.training.settings import LengthSettings, ProbeSettings, RunSettings

RewardObjective = Literal[
    "bradley-terry", "davidson", "rao-kupper", "plackett-luce", "all-pairs", "best-of-k"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """A reward model from preference pairs or ranked lists."""

    model: Annotated[str, Meta(description="Decoder or encoder folder to start from.")]
    data: Annotated[Path, Meta(description="Pairs or ranked lists, in any format preftune reads.")]
    held_out: Annotated[
        Path | None, Meta(description="Pairs or ranked lists to report accuracy on.")
    ] = None
    dimension: Annotated[
        str, Meta(description="Learn from records of this dimension, such as helpful; empty: all.")
    ] = ""
    objective: Annotated[
        RewardObjective,
        Meta(
            description="bradley-terry, davidson and rao-kupper count every comparison once, the "
            "last two with ties; plackett-luce, all-pairs and best-of-k count every list once."
        ),
    ] = "bradley-terry"
    label: Annotated[
        Literal["hard", "soft", "margin"],
        Meta(description="Use pairs as they are, their probability, or their strength as margin."),
    ] = "hard"
    margin_per_strength: Annotated[
        float, Meta(gt=0, description="Margin of one level of strength; only with label margin.")
    ] = 1 / 3
    ties: Annotated[
        Literal["refuse", "half"],
        Meta(description="Ties under bradley-terry: stop, or train on a probability of one half."),
    ] = "refuse"
    centring: Annotated[
        float, Meta(ge=0, description="Weight of (chosen + rejected)^2; keeps scores near 0.")
    ] = 0.01
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        _only_with(self, "margin_per_strength", "label", "margin")
        _only_with(self, "label", "objective", "bradley-terry")
        _only_with(self, "ties", "objective", "bradley-terry")
        if self.engine.compile:
            raise SettingsError("compile: reward models go without it. Leave it out.")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpairedSettings:
    """Tuning on single responses, each marked desirable or not (KTO and its kin)."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[
        Path,
        Meta(description="Unpaired rows, or pairs: chosen counts as desirable, rejected as not."),
    ]
    held_out: Annotated[
        Path | None, Meta(description="Pairs to report accuracy on; only when data are pairs.")
    ] = None
    loss: Annotated[
        Literal["kto", "bco", "apo_zero_unpaired"],
        Meta(
            description="kto, bco or apo_zero_unpaired: compare rewards with a measured KL, with "
            "their running mean, or with 0."
        ),
    ] = "kto"
    beta: Annotated[float, Meta(gt=0, description="Pull towards the reference.")] = 0.1
    desirable_weight: Annotated[
        float, Meta(gt=0, description="Weight of desirable responses; only with loss kto.")
    ] = 1.0
    undesirable_weight: Annotated[
        float, Meta(gt=0, description="Weight of undesirable responses; only with loss kto.")
    ] = 1.0
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)

    def __post_init__(self) -> None:
        _only_with(self, "desirable_weight", "loss", "kto")
        _only_with(self, "undesirable_weight", "loss", "kto")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListwiseSettings:
    """Direct preference optimisation on ranked lists of any length (Plackett–Luce DPO)."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[Path, Meta(description="Ranked lists, in any format preftune reads.")]
    held_out: Annotated[
        Path | None, Meta(description="Pairs or ranked lists to report accuracy on.")
    ] = None
    beta: Annotated[float, Meta(gt=0, description="Pull towards the reference.")] = 0.1
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)


def _only_with(settings: Any, name: str, switch: str, value: str) -> None:
    """Refuse a setting that would change nothing because its switch is elsewhere."""
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    if getattr(settings, switch) != value and getattr(settings, name) != default:
        raise SettingsError(f"{name} changes nothing unless {switch} is {value}. Leave one out.")
