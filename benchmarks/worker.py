"""Measure one configuration and print it as one line of JSON.

python -m benchmarks.worker --side ours --model S --data pairs.jsonl
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import RunConfig, add_flags, from_flags
from benchmarks.machine import Load, peak_mb, processor, versions
from benchmarks.results import Result, one_line
from benchmarks.sizes import mean_gflop
from preftune.errors import PreftuneError
from preftune.types import PreferencePair

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CI": "1"}


def measure(config: RunConfig, model: Path, pairs: Sequence[PreferencePair]) -> Result:
    """Run a configuration in this process and return its result."""
    import torch

    from preftune.models.chat import load_chat

    load = Load()
    if config.side == "ours":
        from benchmarks import ours

        measured = ours.run(config, model, pairs)
    else:
        from benchmarks import trl_side

        measured = trl_side.run(config, model, pairs)
    foreign_cores, peak = load.foreign_cores(), peak_mb()
    chat = load_chat(model)
    tokens = [(chat.encode(p.prompt, p.chosen), chat.encode(p.prompt, p.rejected)) for p in pairs]
    return Result(
        config=config,
        measured=measured,
        pairs=len(pairs),
        tokens_per_pair=sum(len(s) for pair in tokens for s in pair) / len(tokens),
        lean_gflop=mean_gflop(config.model, tokens),
        peak_mb=peak,
        foreign_cores=foreign_cores,
        threads=torch.get_num_threads(),
        processor=processor(),
        versions=versions(),
    )


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, RunConfig)
    parser.add_argument("--data", type=Path, required=True, help="pairs to draw from")
    parser.add_argument("--cache", type=Path, help="folder of models and drawn pairs")
    arguments = parser.parse_args()
    try:
        config = from_flags(arguments, RunConfig)
        if config.thp and os.environ.get("GLIBC_TUNABLES") != HUGE_PAGES["GLIBC_TUNABLES"]:
            again = [sys.executable, "-m", "benchmarks.worker", *sys.argv[1:]]
            os.execve(sys.executable, again, os.environ | HUGE_PAGES)  # glibc reads it at the start
        os.environ.update(NO_NETWORK)
        from benchmarks.data import workload
        from benchmarks.models import default_cache
        from preftune.datasets import read_pairs

        model, file = workload(config, arguments.data, arguments.cache or default_cache())
        print(one_line(measure(config, model, read_pairs(file))))
    except PreftuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
