"""What a worker prints and the results files hold: one JSON line per run."""

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.config import RunConfig

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one side reports of one run."""

    start_s: float  # from loaded libraries to the first step: model, tokens, reference
    reference_s: float  # the part of it that computes the reference
    epoch_s: list[float]  # timed epochs only
    losses: list[float]  # nats, of every step from the first on; TRL keeps them where asked
    gflops: list[float] = field(default_factory=list)  # the machine's, around each timed epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run with all that one must know to judge it."""

    config: RunConfig
    measured: Measured
    pairs: int  # of one epoch
    tokens_per_pair: float  # prompt counted twice
    lean_gflop: float  # of one pair at the least, see `sizes.pair_gflop`
    peak_mb: float
    foreign_cores: float
    threads: int
    processor: str
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def pairs_per_s(self) -> list[float]:
        """Pairs per second of each timed epoch."""
        return [self.pairs / seconds for seconds in self.measured.epoch_s]

    @property
    def beside(self) -> list[tuple[float, float]]:
        """Pairs per second of each timed epoch, and the machine's GFLOP/s before and after it."""
        speeds = self.measured.gflops
        around = [(a + b) / 2 for a, b in itertools.pairwise(speeds)]
        return list(zip(self.pairs_per_s, around, strict=False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a results file."""

    label: str
    round: int  # from 0; sides take turns, a round is one run of each
    tries: int  # more than 1: others used the cores before
    failed: str  # why there is no result
    result: msgspec.Raw


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All rounds of one configuration."""

    config: RunConfig
    pairs: int  # of one epoch
    lean_gflop: float
    rate: float  # pairs per second, median over all timed epochs
    slowest: float
    fastest: float
    epochs: int
    start_s: float
    reference_s: float
    peak_mb: float
    foreign_cores: float  # of the worst round
    losses: list[float]
    beside: list[tuple[float, float]]  # of all rounds, see `Result.beside`

    @property
    def total_s(self) -> float:
        """Seconds from loaded libraries to the end of the first epoch."""
        return self.start_s + self.pairs / self.rate


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a results file; none where there is no file."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Line)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


def results_by_label(lines: Iterable[Line], kind: type[R]) -> dict[str, list[R]]:
    """Return the results of each label in the order they were taken; failed runs left out."""
    found: dict[str, list[R]] = {}
    for line in lines:
        if not line.failed:
            found.setdefault(line.label, []).append(msgspec.json.decode(line.result, type=kind))
    return found


def summary(results: list[Result]) -> Summary:
    """Return the medians of all rounds of a configuration; memory and load of the worst."""
    rates = [rate for result in results for rate in result.pairs_per_s]
    return Summary(
        config=results[0].config,
        pairs=results[0].pairs,
        lean_gflop=results[0].lean_gflop,
        rate=statistics.median(rates),
        slowest=min(rates),
        fastest=max(rates),
        epochs=len(rates),
        start_s=statistics.median(r.measured.start_s for r in results),
        reference_s=statistics.median(r.measured.reference_s for r in results),
        peak_mb=max(r.peak_mb for r in results),
        foreign_cores=max(r.foreign_cores for r in results),
        beside=[pair for result in results for pair in result.beside],
        losses=results[0].measured.losses,
    )


def one_line(result: Any) -> str:
    """Return a result as one line of JSON."""
    return msgspec.json.encode(result).decode()
