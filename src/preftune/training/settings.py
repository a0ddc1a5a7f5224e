"""All one can turn in training; groups shared by the methods, then one class per method."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from preftune.engine.settings import EngineSettings, OptimizerSettings
from preftune.errors import SettingsError
from preftune.models.lora import LoraSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Where a run lives and how it is kept."""

    out: Annotated[Path, Meta(description="Run folder; an unfinished run in it goes on.")]
    seed: Annotated[int, Meta(ge=0, description="Seed of order, dropout and new weights.")] = 0
    save_every: Annotated[int, Meta(ge=1, description="Steps between checkpoints.")] = 100
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0 leaves torch's choice.")] = 0
    trust_foreign: Annotated[
        bool, Meta(description="Go on from a checkpoint that another installation wrote.")
    ] = False


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
    engine: EngineSettings = field(default_factory=EngineSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSettings:
    """What single losses take besides beta; None is the loss's own default.

    A setting that no term of the loss reads is refused. The losses check the ranges.
    """

    offset_per_strength: Annotated[
        float | None, Meta(description="Offset of one level of strength (0.2); label offset only.")
    ] = None
    weighting: Annotated[
        Literal["none", "wpo"], Meta(description="Weigh pairs by how on-policy they are (WPO).")
    ] = "none"
    flip_rate: Annotated[
        float | None,
        Meta(description="cdpo, robust (0.1), exo (0.001), aot, aot_unpaired (0): wrong labels."),
    ] = None
    tau: Annotated[
        float | None,
        Meta(description="ipo, ipo_sum (0.1): pull to the reference. discopop (0.05): width."),
    ] = None
    length_alpha: Annotated[
        float | None, Meta(description="r_dpo: the raters' log-odds per token of length.")
    ] = None
    ld_alpha: Annotated[
        float | None, Meta(description="ld_dpo: weight of tokens beyond the other's length (0.5).")
    ] = None
    divergence_alpha: Annotated[
        float | None, Meta(description="alpha_divergence: which one, below 1 (0.5).")
    ] = None
    dpop_penalty: Annotated[
        float | None, Meta(description="dpop: cost of a nat that chosen loses (50).")
    ] = None
    simpo_gamma: Annotated[
        float | None, Meta(description="simpo: the gap to exceed, absolute (0.5).")
    ] = None
    odds_weight: Annotated[
        float | None, Meta(description="orpo: weight of the odds beside the NLL (0.1).")
    ] = None
    slic_delta: Annotated[float | None, Meta(description="slic: the gap to reach, nats (1).")] = (
        None
    )
    turn_gamma: Annotated[
        float | None, Meta(description="dmpo: how fast later turns fade, up to 1 (0.7).")
    ] = None
    beta_scale: Annotated[
        float | None, Meta(description="beta_dpo: how much margins move beta (0.6).")
    ] = None
    keep_frac: Annotated[
        float | None, Meta(description="beta_dpo: share of the step's pairs that train (0.8).")
    ] = None
    margin_decay: Annotated[
        float | None, Meta(description="beta_dpo: share of the past in the mean margin (0.9).")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MovingSettings:
    """A reference that follows the policy (TR-DPO)."""

    ref_every: Annotated[
        int, Meta(ge=0, description="Steps between moves of the reference; 0: it stays frozen.")
    ] = 0
    ref_mix: Annotated[
        float | None,
        Meta(description="Share of the policy in a moved reference (0.6); 1: a copy of it."),
    ] = None

    def __post_init__(self) -> None:
        if self.ref_mix is not None and not self.ref_every:
            raise SettingsError("ref_mix changes nothing unless ref_every is set. Leave one out.")
        if self.ref_mix is not None and not 0 < self.ref_mix <= 1:
            raise SettingsError(f"ref_mix is {self.ref_mix}. Use a share > 0 and at most 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectSettings:
    """Preference optimisation on pairs without a reward model: DPO and its relatives."""

    model: Annotated[
        str, Meta(description="The SFT model: where the policy starts, and its reference.")
    ]
    data: Annotated[Path, Meta(description="Preference pairs, in any format preftune reads.")]
    held_out: Annotated[Path | None, Meta(description="Pairs to report accuracy on.")] = None
    loss: Annotated[
        str, Meta(description="A loss, or a weighted sum such as '0.8*sigmoid + 0.2*bco_pair'.")
    ] = "sigmoid"
    beta: Annotated[
        float | None,
        Meta(description="Pull towards the reference (0.1; sigmoid_norm 5, simpo 2, dpop 0.3)."),
    ] = None
    nll_weight: Annotated[
        float | None,
        Meta(description="Weight of the chosen responses' NLL per token (sigmoid 0.2, cpo 1)."),
    ] = None
    label: Annotated[
        Literal["hard", "soft", "offset"],
        Meta(description="Use pairs as they are, their probability, or their strength as offset."),
    ] = "hard"
    variant: VariantSettings = field(default_factory=VariantSettings)
    moving: MovingSettings = field(default_factory=MovingSettings)
    run: RunSettings
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)

    def __post_init__(self) -> None:
        if self.variant.offset_per_strength is not None and self.label != "offset":
            raise SettingsError(
                "offset_per_strength changes nothing unless label is offset. Leave one out."
            )
