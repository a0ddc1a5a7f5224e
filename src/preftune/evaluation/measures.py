"""A measure: one figure about a model, its interval, its unit and how much stands behind it."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from preftune.errors import DataError
from preftune.stats.bootstrap import mean_interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One figure; `low` and `high` are its two-sided 95 % interval, None where it has none.

    Whatever is measured outside this package enters a gate as a measure: sampled KL per reply,
    displacement, how well the data fit the reference model, cost, latency.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int  # independent items behind it, such as prompts
    unit: str = ""  # such as nats, tokens, frac; empty for a ratio
    note: str = ""

    def __post_init__(self) -> None:
        numbers = [x for x in (self.value, self.low, self.high) if x is not None]
        if not self.name or not all(map(math.isfinite, numbers)) or self.n < 0:
            raise DataError(
                f"measure {self.name!r}: value {self.value}, low {self.low}, high {self.high}, "
                f"n {self.n}. Give a name, finite numbers and n >= 0."
            )
        if (self.low is None) != (self.high is None):
            raise DataError(f"measure {self.name}: half an interval. Give both ends or none.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise DataError(f"measure {self.name}: low {self.low} > high {self.high}. Swap them.")


def mean_measure(
    name: str,
    values: Sequence[float],
    prompts: Sequence[Hashable],
    *,
    unit: str = "",
    note: str = "",
    seed: int = 0,
) -> Measure:
    """Return the mean of one value per reply, with a bootstrap interval over prompts.

    Sampled KL, for one: `values` are Σ over tokens of log policy − log reference of fresh replies
    of the policy, the unit is nats per reply.

    Args:
        name: how a gate will call it.
        values: one number per reply.
        prompts: the prompt id of each reply; replies to one prompt are drawn together.
        unit: of the values.
        note: what a reader should know about it.
        seed: of the bootstrap.

    Raises:
        DataError: no values, lengths that differ, or a number that is not finite.
    """
    if not values or len(values) != len(prompts):
        raise DataError(
            f"measure {name}: {len(values)} values, {len(prompts)} prompts. Give one each."
        )
    if not np.isfinite(values).all():
        raise DataError(f"measure {name}: a value is not finite. Find the reply it comes from.")
    independent = len(set(prompts))
    interval = mean_interval(values, prompts, seed=seed) if independent > 1 else None
    return Measure(
        name=name,
        value=float(np.mean(values)),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=independent,
        unit=unit,
        note=note,
    )
