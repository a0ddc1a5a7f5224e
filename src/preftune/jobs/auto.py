"""What "auto" becomes: simple rules from the number of rows and the size of the model.

| hyperparameter | auto |
|---|---|
| n_epochs | 3 up to 1,000 rows, 2 up to 10,000, then 1 |
| batch_size | 0.2 % of the rows, 1 to 256; at least 4 for reinforcement |
| learning_rate_multiplier | 1 |
| beta | 0.1, or what the loss is usually used with |
| compute_multiplier | 1: 4 responses to each prompt |
| eval_interval | one epoch |
| eval_samples | 1 |

The learning rate that the multiplier is applied to is in `LEARNING_RATE`; it is halved for models
of 10 billion parameters and more.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftune.jobs.extras import Method

LEARNING_RATE: dict[Method, float] = {"supervised": 2e-4, "dpo": 5e-5, "reinforcement": 5e-5}
ALL_WEIGHTS = 0.1  # of these, when all weights are trained instead of an adapter
LARGE = 10_000_000_000  # parameters
SAMPLES = 4  # responses to each prompt at a compute multiplier of 1


def resolve(method: Method, given: Mapping[str, Any], *, rows: int) -> dict[str, Any]:
    """Return the hyperparameters of a job with a number for every "auto" but beta's.

    What beta becomes depends on the loss, `DirectSettings` says it.

    Args:
        method: of the job.
        given: numbers, or "auto".
        rows: of the training file.
    """
    asked = {name: value for name, value in given.items() if value not in (None, "auto")}
    least = 4 if method == "reinforcement" else 1
    batch = asked.get("batch_size", min(256, max(least, round(0.002 * rows))))
    found: dict[str, Any] = {
        "n_epochs": 3 if rows <= 1_000 else 2 if rows <= 10_000 else 1,
        "batch_size": batch,
        "learning_rate_multiplier": 1.0,
    }
    if method == "reinforcement":
        found |= {"compute_multiplier": 1.0, "eval_interval": -(-rows // batch), "eval_samples": 1}
        found["reasoning_effort"] = "default"
    return found | asked


def learning_rate(
    method: Method, *, multiplier: float, parameters: int, all_weights: bool
) -> float:
    """Return the peak learning rate; 2e-4 for an adapter on a model of 1 billion, supervised."""
    rate = LEARNING_RATE[method] * multiplier
    rate *= ALL_WEIGHTS if all_weights else 1.0
    return rate / 2 if parameters >= LARGE else rate


def responses(compute_multiplier: float) -> int:
    """Return how many responses are drawn to each prompt of a step, at least 2."""
    return max(2, round(SAMPLES * compute_multiplier))


def parameters_in(folder: Path) -> int:
    """Return how many numbers the safetensors files of a model folder hold, by their headers."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in list(tensors.keys())]
        total += sum(math.prod(shape) for shape in shapes)
    return total
