"""Same seed, same bytes: what has to be fixed at the start, and the seed of each step."""

import hashlib
import os
import platform
from importlib.metadata import version

import torch

from preftune import __version__


def fix(threads: int) -> None:
    """Fix everything that could make two runs of one seed differ on one class of machine."""
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    # Nothing reads memory before it is written; filling it costs a tenth of a small model's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no stub
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step, so that dropout needs no saved state."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def environment() -> dict[str, str | int]:
    """Return what the bytes of a run depend on besides its settings and data."""
    return {
        "preftune": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "peft": version("peft"),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
