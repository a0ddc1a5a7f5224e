"""How much a test does: by day as much as every change can afford, at night as the goals ask.

PREFTUNE_NIGHT=1 pytest tests/store          # or, all of them at once: python -m benchmarks.nightly
"""

import os

NIGHT = "PREFTUNE_NIGHT"


def size(day: int, night: int) -> int:
    """Return the number for the day, or for the night where the environment says so."""
    return night if os.environ.get(NIGHT) else day
