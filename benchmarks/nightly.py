"""What is promised of labels, at the sizes of the night and on both databases.

    python -m benchmarks.nightly             # all; about two hours on two cores
    python -m benchmarks.nightly R1 R16      # some

The same tests run with every change, smaller: R1 kills the server 20 times instead of 200.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.store.sizes import NIGHT

ROOT = Path(__file__).parents[1]
CHECKS = {
    "R1": ("200 kills, 50,000 labels", "tests/serving/test_r01_no_label_lost.py"),
    "R9": ("2,000 runs of 50 steps", "tests/store/test_r09_model_check.py"),
    "R16": ("100,000 labels, 20 kills", "tests/store/test_r16_migrations.py"),
    "R17": ("backup of 20,000 labels", "tests/store/test_r17_backup_while_written.py"),
}


def main(wanted: list[str]) -> int:
    """Run the checks and return 0 when all of them passed, 1 when not, 2 for an unknown name."""
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        print(f"nightly: no check {unknown[0]!r}. There are {', '.join(CHECKS)}.", file=sys.stderr)
        return 2
    results = [run(name) for name in wanted or CHECKS]
    return 0 if all(results) else 1


def run(name: str) -> bool:
    """Run one check, say how it went and how long it took, and return whether it passed."""
    size, path = CHECKS[name]
    print(f"{name}: {size}", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
    at_night = {**os.environ, NIGHT: "1"}
    passed = subprocess.run(command, cwd=ROOT, env=at_night, check=False).returncode == 0
    took_min = (time.monotonic() - began) / 60
    print(f"{name}: {'passed' if passed else 'FAILED'} after {took_min:.1f} minutes", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
