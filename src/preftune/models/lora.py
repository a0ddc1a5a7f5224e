"""Settings of low-rank adapters; apart from adapters.py so that reading them loads no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from preftune.errors import SettingsError

BITS = (32, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """A low-rank adapter. Rank 0 trains all weights instead."""

    lora_rank: Annotated[
        int, Meta(ge=0, le=1024, description="Rank of the adapter; 0 trains all weights.")
    ] = 0
    lora_alpha: Annotated[
        float, Meta(gt=0, description="The adapter's update is scaled by lora_alpha / lora_rank.")
    ] = 16.0
    lora_dropout: Annotated[
        float, Meta(ge=0, lt=1, description="Share of the adapter's inputs dropped in training.")
    ] = 0.0
    lora_targets: Annotated[
        tuple[str, ...],
        Meta(description="Names of the layers to adapt; all-linear means every linear layer."),
    ] = ("all-linear",)
    base_bits: Annotated[
        int, Meta(description="Bits of the base's weights: 32, or 4 (NF4, needs preftune[quant]).")
    ] = 32
    dora: Annotated[bool, Meta(description="Learn magnitude apart from direction (DoRA).")] = False

    def __post_init__(self) -> None:
        if self.base_bits not in BITS:
            raise SettingsError(f"base_bits is {self.base_bits}. Use 32 or 4.")
        if self.base_bits == 4 and not self.lora_rank:
            raise SettingsError(
                "base_bits 4 needs an adapter: weights of 4 bits cannot be trained themselves. "
                "Give --lora-rank, or leave it."
            )
        if self.lora_rank:
            return
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                raise SettingsError(
                    f"{field.name} changes nothing while lora_rank is 0. Give a rank, or leave it."
                )
