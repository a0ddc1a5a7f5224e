"""Measure one way of policy optimisation and print it as one line of JSON.

python -m benchmarks.policy_worker --side ours --method rloo --data pairs.jsonl
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import add_flags, from_flags
from benchmarks.machine import Load, peak_mb, processor, versions
from benchmarks.policy_runs import PolicyConfig, PolicyResult, material
from benchmarks.results import one_line
from benchmarks.worker import HUGE_PAGES, NO_NETWORK
from preftune.engine.memory import SWITCH
from preftune.errors import PreftuneError
from preftune.types import PreferencePair

RETURNED = {SWITCH: "lean"}


def measure(config: PolicyConfig, model: Path, pairs: Sequence[PreferencePair]) -> PolicyResult:
    """Run a configuration in this process and return its result."""
    import torch

    load = Load()
    if config.side == "ours":
        from benchmarks import policy_ours

        measured = policy_ours.run(config, model, pairs)
    else:
        from benchmarks import policy_trl

        measured = policy_trl.run(config, model, pairs)
    return PolicyResult(
        config=config,
        measured=measured,
        peak_mb=peak_mb(),
        foreign_cores=load.foreign_cores(),
        threads=torch.get_num_threads(),
        processor=processor(),
        versions=versions(),
    )


def main() -> None:
    """Measure what the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, PolicyConfig)
    parser.add_argument("--data", type=Path, required=True, help="pairs to take prompts from")
    parser.add_argument("--cache", type=Path, required=True, help="folder of models and prompts")
    arguments = parser.parse_args()
    try:
        config = from_flags(arguments, PolicyConfig)
        wanted = (HUGE_PAGES if config.thp else {}) | (RETURNED if config.returned else {})
        if any(os.environ.get(name) != value for name, value in wanted.items()):
            again = [sys.executable, "-m", "benchmarks.policy_worker", *sys.argv[1:]]
            os.execve(sys.executable, again, os.environ | wanted)  # glibc reads it at the start
        os.environ.update(NO_NETWORK)
        from preftune.datasets import read_pairs

        model, file = material(config, arguments.data, arguments.cache)
        print(one_line(measure(config, model, read_pairs(file))))
    except PreftuneError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
