"""What is set against what, and what must come out."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from benchmarks.config import LEVERS, PAIRS, PAIRS_PER_STEP, RunConfig

LENGTHS = (512, 1024, 2048, 4096, 8192)  # tokens
LOSS_STEPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """Two bars for one ratio."""

    must: float
    aim: float

    def verdict(self, ratio: float) -> str:
        """Return which bar a ratio reaches, where more is better."""
        if ratio >= self.aim:
            return "aim met"
        return "must met" if ratio >= self.must else "**missed**"

    def verdict_at_most(self, ratio: float) -> str:
        """Return which bar a ratio reaches, where less is better."""
        if ratio <= self.aim:
            return "aim met"
        return "must met" if ratio <= self.must else "**missed**"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One workload: ours once, TRL as it comes and with each setting that may be its best."""

    model: Literal["S", "M", "V"]
    method: Literal["dpo", "rm"] = "dpo"
    precision: Literal["fp32", "bf16"] = "bf16"
    mode: Literal["full", "lora"] = "full"
    speed: Goal | None = None  # ours / TRL's fastest
    thp_speed: Goal | None = None  # the same with huge pages given to TRL only
    total: Goal | None = None  # of one epoch from loaded libraries on, the same ratio
    memory: Goal | None = None  # ours / TRL's leanest; less is better
    floor: Goal | None = None  # ours / lean floor

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.model} {self.method.upper()} {self.mode} {self.precision}"

    @property
    def ours(self) -> RunConfig:
        """Our side."""
        return RunConfig(
            side="ours",
            model=self.model,
            method=self.method,
            precision=self.precision,
            mode=self.mode,
        )

    @property
    def lean(self) -> RunConfig:
        """Our side with about two pairs per forward: slower, in less memory."""
        return dataclasses.replace(self.ours, flags="lean")

    def trl(self, micro: int, *, thp: bool = False) -> RunConfig:
        """Return TRL with its best settings and `micro` pairs per forward."""
        return dataclasses.replace(self.ours, side="trl", micro=micro, thp=thp)

    @property
    def default(self) -> RunConfig:
        """TRL as it comes."""
        return dataclasses.replace(self.ours, side="trl", flags="default")

    @property
    def rivals(self) -> list[RunConfig]:
        """TRL with each setting that may be its fastest or leanest."""
        return [self.trl(1), self.trl(2), dataclasses.replace(self.trl(2), flags="grouped")]

    @property
    def thp_rivals(self) -> list[RunConfig]:
        """The same with huge pages; measured where there is a goal for it."""
        return [self.trl(1, thp=True), self.trl(2, thp=True)] if self.thp_speed else []

    @property
    def runs(self) -> list[RunConfig]:
        """All of them, taking turns in this order; TRL as it comes computes in bf16."""
        default = [self.default] if self.precision == "bf16" else []
        return [self.ours, *self.rivals, self.lean, *default, *self.thp_rivals]


CONTESTS = (
    Contest(
        model="S",
        speed=Goal(must=3.0, aim=5.0),
        thp_speed=Goal(must=2.3, aim=4.0),
        memory=Goal(must=0.75, aim=0.5),
    ),
    Contest(
        model="M",
        speed=Goal(must=4.0, aim=8.0),
        thp_speed=Goal(must=3.2, aim=6.0),
        total=Goal(must=5.0, aim=8.0),
        memory=Goal(must=0.85, aim=0.5),
        floor=Goal(must=0.28, aim=0.5),
    ),
    Contest(
        model="V",
        speed=Goal(must=10.0, aim=15.0),
        thp_speed=Goal(must=6.0, aim=10.0),
        memory=Goal(must=1.0, aim=0.5),
    ),
    Contest(
        model="S",
        precision="fp32",
        speed=Goal(must=2.0, aim=2.8),
        memory=Goal(must=0.75, aim=0.5),
    ),
    Contest(
        model="M",
        precision="fp32",
        floor=Goal(must=0.7, aim=0.7),
        memory=Goal(must=0.85, aim=0.5),
    ),
    Contest(model="V", precision="fp32", memory=Goal(must=1.0, aim=0.5)),
    Contest(model="S", mode="lora", precision="fp32"),
    Contest(model="M", mode="lora", precision="fp32"),
    Contest(model="S", method="rm", precision="fp32"),
    Contest(model="M", method="rm", precision="fp32"),
    Contest(model="S", mode="lora", speed=Goal(must=2.0, aim=3.5)),
    Contest(model="M", mode="lora", speed=Goal(must=3.0, aim=6.0)),
    Contest(model="V", mode="lora"),
    Contest(model="S", method="rm", speed=Goal(must=1.7, aim=3.0)),
    Contest(model="M", method="rm", speed=Goal(must=1.7, aim=3.0)),
)
LENGTH_SPEED = Goal(must=1.0, aim=2.0)
LENGTH_MEMORY = Goal(must=1.0, aim=0.5)
PREPARE_SPEED = Goal(must=1.7, aim=4.0)
WORST_LOSS_DIFFERENCE = 1e-4  # relative


def loss_runs() -> list[list[RunConfig]]:
    """Return ours and TRL's runs in fp32 on the same batches, at least eight steps each."""
    ours = [
        RunConfig(side="ours", model="S", precision="fp32"),
        RunConfig(side="ours", model="M", precision="fp32"),
        RunConfig(side="ours", model="S", precision="fp32", mode="lora"),
        RunConfig(side="ours", model="S", precision="fp32", method="rm"),
    ]
    fixed = [
        dataclasses.replace(
            config,
            losses=True,
            warmup=0,
            epochs=LOSS_STEPS * PAIRS_PER_STEP // PAIRS[config.model],
        )
        for config in ours
    ]
    return [[config, dataclasses.replace(config, side="trl", micro=2)] for config in fixed]


def length_runs() -> list[list[RunConfig]]:
    """Return one pair per step of 512 to 8192 tokens, with and without recomputing layers."""
    groups = []
    for precision in ("bf16", "fp32"):
        for model in ("S", "V"):
            for length in LENGTHS:
                ours = RunConfig(side="ours", model=model, length=length, precision=precision)
                trl = dataclasses.replace(ours, side="trl", micro=1)
                again = [dataclasses.replace(c, flags="checkpointed") for c in (ours, trl)]
                groups.append([ours, trl, *again])
    return groups


def lever_runs() -> list[list[RunConfig]]:
    """Return our side as it is and with one lever changed, for each model and precision."""
    groups = []
    for precision in ("fp32", "bf16"):
        for model in ("S", "M"):
            whole = RunConfig(side="ours", model=model, precision=precision)
            groups.append([whole, *(dataclasses.replace(whole, flags=name) for name in LEVERS)])
    return groups
