"""One configuration of one side, measured in a process of its own."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from preftune.errors import SettingsError

PAIRS_PER_STEP = 8
PAIRS = {"S": 64, "M": 16, "V": 16}
Flags = Literal[
    "best",
    "grouped",
    "default",
    "checkpointed",
    "lean",
    "plain",
    "unshared",
    "live",
    "returned",
    "compiled",
]
LEVERS: dict[Flags, str] = {
    "plain": "padding, each prompt twice, logits of all tokens",
    "unshared": "each prompt once for each of its responses",
    "live": "the reference computed in every step",
    "returned": "freed pages returned to the kernel",
    "lean": "two pairs a forward",
    "checkpointed": "layers computed again in the backward",
    "compiled": "with torch.compile (the first epoch, which compiles, is not counted)",
}
"""What can be taken from our side or added to it, by its name in `flags`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What is run. Each field is a flag of the worker; one left out has its default.

    Of `flags`, best is no recomputing, the reference computed before, and the same batches of rows
    of like length in the same order on both sides; grouped is the same with TRL's own sampler of
    like lengths, default is TRL as it comes, checkpointed computes layers again in the backward,
    lean is our side with about two pairs per forward. The rest are our side with one thing taken
    away or added, see `LEVERS`.
    """

    side: Literal["trl", "ours"]
    model: Literal["S", "M", "V"] = "S"
    method: Literal["dpo", "rm"] = "dpo"
    precision: Literal["fp32", "bf16"] = "bf16"
    mode: Literal["full", "lora"] = "full"
    flags: Flags = "best"
    micro: int = PAIRS_PER_STEP  # TRL's pairs per forward, gradients accumulated to a whole step
    losses: bool = False  # keep each step's loss, at a learning rate that moves it
    thp: bool = False  # glibc asks for huge pages
    length: int = 0  # tokens of each made-up sequence; 0: hh-harmless pairs
    epochs: int = 2  # timed ones
    warmup: int = 1  # epochs before them

    def __post_init__(self) -> None:
        if self.method == "rm" and self.mode == "lora":
            raise SettingsError(
                "reward models are measured with all weights trained. Use --mode full."
            )
        ways = ("best", *LEVERS)
        if self.side == "ours" and (self.flags not in ways or self.micro != PAIRS_PER_STEP):
            raise SettingsError(
                f"our side takes best, {', '.join(LEVERS)}. Leave --flags and --micro out."
            )

    @property
    def pairs(self) -> int:
        """Pairs of one epoch."""
        return 1 if self.length else PAIRS[self.model]

    @property
    def pairs_per_step(self) -> int:
        """Pairs of one optimiser step."""
        return 1 if self.length else PAIRS_PER_STEP

    @property
    def lr(self) -> float:
        """Learning rate: small where only time counts, large where losses are compared."""
        return 1e-4 if self.losses else 1e-6

    @property
    def label(self) -> str:
        """Name of the configuration without the number of epochs; results are found by it."""
        parts: list[str] = [self.side, self.method, self.model, self.precision, self.mode]
        parts += [f"mb{self.micro}"] if self.side == "trl" else []
        parts += [self.flags] if self.side == "trl" or self.flags != "best" else []
        parts += ["losses"] if self.losses else []
        parts += ["thp"] if self.thp else []
        parts += [f"length{self.length}"] if self.length else []
        return "-".join(parts)


def to_flags(config: Any) -> list[str]:
    """Return the flags that give a configuration; those at their default are left out."""
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is True:
            flags.append(f"--{field.name}")
        elif value != field.default:
            flags += [f"--{field.name}", str(value)]
    return flags


def add_flags(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Add a flag for each field of a configuration class."""
    for field in dataclasses.fields(kind):
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true", default=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS)


def from_flags(arguments: argparse.Namespace, kind: type[Any]) -> Any:
    """Return the configuration that parsed flags describe.

    Raises:
        SettingsError: a value that its field does not have.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in vars(arguments).items() if name in names}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"benchmark: {error}. See --help.") from error


def chosen(configs: Sequence[RunConfig], only: str) -> list[RunConfig]:
    """Return the configurations whose label has every word of `only`, words joined by commas."""
    words = [word for word in only.split(",") if word]
    return [c for c in configs if all(word in c.label.split("-") for word in words)]
