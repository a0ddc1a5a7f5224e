"""The floor: how fast a pair could be if the matrix products ran at the machine's own speed.

python -m benchmarks.floor     measures that speed and prints it as one line of JSON
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.machine import Load
from benchmarks.results import one_line
from benchmarks.sizes import parameters

SHAPES = ((2048, 256, 1024), (2048, 768, 768), (2048, 768, 3072), (4096, 4096, 4096))
REPEATS = 9
QUICK_SHAPES, QUICK_REPEATS = SHAPES[:3], 5  # small enough to leave the peak of memory alone
PEAKS = "peaks-"  # begins the label of a measurement beside a contest
READ_BYTES = 1 << 30
ADAM_BYTES = {"fp32": 28, "bf16": 34}  # a weight: gradient, two moments, master; the bf16 copy


@dataclass(frozen=True, kw_only=True, slots=True)
class Peaks:
    """What this machine reaches."""

    fp32_gflops: float
    bf16_gflops: float
    read_gb_s: float
    foreign_cores: float


def floor_pairs_per_s(
    model: str, precision: str, *, gflop: float, pairs_per_step: int, peaks: Peaks
) -> float:
    """Return the pairs per second that nothing built of these products can pass.

    One pair costs its operations at the peak, and its share of the optimiser step's memory
    traffic.

    Args:
        model: S, M or V.
        precision: fp32 or bf16.
        gflop: 10^9 operations of one pair, see `sizes.pair_gflop`.
        pairs_per_step: pairs that share one optimiser step.
        peaks: the machine's speed.
    """
    speed = peaks.bf16_gflops if precision == "bf16" else peaks.fp32_gflops
    traffic_gb = parameters(model) * ADAM_BYTES[precision] / 1e9
    return 1.0 / (gflop / speed + traffic_gb / peaks.read_gb_s / pairs_per_step)


def measured_peaks() -> Peaks:
    """Return the median speed over four shapes of product, and the speed of reading memory."""
    import torch

    load = Load()
    fp32, bf16 = product_gflops("fp32"), product_gflops("bf16")
    block = torch.ones(READ_BYTES // 4)
    read = READ_BYTES / median_s(block.sum) / 1e9
    return Peaks(
        fp32_gflops=fp32, bf16_gflops=bf16, read_gb_s=read, foreign_cores=load.foreign_cores()
    )


def product_gflops(precision: str, *, quick: bool = False) -> float:
    """Return the median speed over the shapes of product, in 10^9 operations a second."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    found = []
    for m, k, n in QUICK_SHAPES if quick else SHAPES:
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        out = torch.empty(m, n, dtype=dtype)
        repeats = QUICK_REPEATS if quick else REPEATS
        seconds = median_s(partial(torch.mm, a, b, out=out), repeats=repeats)
        found.append(2 * m * k * n / seconds / 1e9)
    return statistics.median(found)


def median_s(work: Callable[[], object], *, repeats: int = REPEATS) -> float:
    """Return the median seconds of a piece of work, after one run that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    print(one_line(measured_peaks()))
