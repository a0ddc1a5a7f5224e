"""Settings of the optimiser; they load no torch, so that the command line can show them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from preftune.errors import SettingsError

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
MOST_TOKENS = 1 << 14  # of one forward; beyond it nothing gets faster


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSettings:
    """AdamW, its schedule, and how much makes up a step."""

    lr: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 1e-4
    epochs: Annotated[float, Meta(gt=0, description="Passes over the rows; may be a fraction.")] = (
        1.0
    )
    batch_size: Annotated[int, Meta(ge=1, description="Rows (pairs) per optimiser step.")] = 16
    schedule: Annotated[Schedule, Meta(description="Learning rate after warm-up.")] = "cosine"
    warmup_frac: Annotated[
        float, Meta(ge=0, le=1, description="Share of the steps that warm up linearly.")
    ] = 0.05
    weight_decay: Annotated[float, Meta(ge=0, description="AdamW decay of matrices.")] = 0.0
    adam_beta1: Annotated[float, Meta(ge=0, lt=1, description="AdamW momentum.")] = 0.9
    adam_beta2: Annotated[float, Meta(ge=0, lt=1, description="AdamW second moment.")] = 0.98
    max_grad_norm: Annotated[
        float, Meta(ge=0, description="Clip the gradient to this norm; 0: never.")
    ] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How the computing is done; but for rounding, the result is the same."""

    precision: Annotated[
        Precision, Meta(description="Computing in bf16 or fp32; weights are kept in fp32.")
    ] = "auto"
    micro_tokens: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["auto"],
        Meta(description="Most tokens per forward; 0: the whole step; auto: what memory holds."),
    ] = "auto"
    recompute: Annotated[
        bool, Meta(description="Keep one state per layer, compute the rest again: less memory.")
    ] = False
    compile: Annotated[
        bool, Meta(description="Run layers through torch.compile: a slow start, then faster steps.")
    ] = False
    engine: Annotated[
        Literal["fast", "plain"],
        Meta(description="Shared prefixes and a chunked head, or the plain padded forward."),
    ] = "fast"

    @property
    def token_limit(self) -> int:
        """Most tokens per forward, 0 without a limit; as long as nobody has chosen, 16384."""
        return MOST_TOKENS if self.micro_tokens == "auto" else self.micro_tokens

    def __post_init__(self) -> None:
        if self.compile and (self.recompute or self.engine == "plain"):
            other = "recompute" if self.recompute else "engine plain"
            raise SettingsError(f"compile does not go with {other}. Leave one of them out.")
