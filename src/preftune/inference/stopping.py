"""When to stop drawing: one more draw is worth what it is expected to add to the best so far."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from preftune.errors import SettingsError
from preftune.responses.sample import row_seed

LEAST = 4  # draws before a spread is believed
FARTHEST = 38.0  # standard deviations: what lies beyond is 0 in double precision
_CHECK_STREAM = 2**32  # a sample number that no draw has


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """Stop drawing for a prompt when the expected gain of one more draw is below `cost`.

    Attributes:
        cost: what a draw may cost, in units of the score, > 0.
        least: draws before the first look, >= 2.
        check_frac: share of the prompts, rounded up, that are drawn in full all the same, to see
            what the rule would have lost.
    """

    cost: float
    least: int = LEAST
    check_frac: float = 0.1

    def __post_init__(self) -> None:
        if not self.cost > 0 or self.least < 2 or not 0 <= self.check_frac <= 1:
            raise SettingsError(
                f"stopping: cost {self.cost}, least {self.least}, check_frac {self.check_frac}. "
                "Give a cost above 0, 2 draws or more, and a share in 0..1."
            )


def enough(scores: Sequence[float], spread: float, cost: float) -> bool:
    """Whether one more draw is expected to add less than `cost` to the best of these scores.

    Nothing scored so far is never enough.
    """
    return bool(scores) and expected_gain(scores, spread) < cost


def expected_gain(scores: Sequence[float], spread: float) -> float:
    """Return what one more draw adds to the best score on average, if scores are normal.

    `s (phi(z) - z P(-z))` with `z = (best - mean) / s` and `s = spread sqrt(1 + 1 / m)`: the mean
    of m scores is itself uncertain. Two scores of 0 and spread 1: s = 1.2247, gain .4886.

    Args:
        scores: of this prompt so far, one at least.
        spread: standard deviation of scores within a prompt, such as `pooled_sd`.
    """
    m = len(scores)
    s = spread * math.sqrt(1 + 1 / m)
    ahead = max(scores) - math.fsum(score / m for score in scores)
    if ahead > FARTHEST * s or s == 0.0:
        return 0.0
    z = ahead / s
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return s * (density - z * math.erfc(z / math.sqrt(2)) / 2)


def pooled_sd(groups: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation within groups, pooled: sqrt(Σ (x - own mean)² / Σ (m - 1)).

    (0, 2) and (5, 5, 8) give sqrt((2 + 6) / 3) = 1.6330. Infinite when no group has two scores.
    """
    freedom = sum(len(group) - 1 for group in groups if group)
    if freedom == 0:
        return math.inf
    means = [math.fsum(x / len(group) for x in group) for group in groups]
    away = [x - mean for group, mean in zip(groups, means, strict=True) for x in group]
    return math.hypot(*away) / math.sqrt(freedom)  # no square of a number of any size overflows


def check_prompts(ids: Sequence[str], check_frac: float, seed: int) -> Collection[str]:
    """Return the ids to draw in full: a share of them, rounded up, picked by a hash."""
    ranked = sorted(ids, key=lambda id_: row_seed(seed, id_, _CHECK_STREAM))
    return frozenset(ranked[: share_of(len(ids), check_frac)])


def share_of(count: int, frac: float) -> int:
    """Return a share of some things, rounded up: 7 of 100 at .07, though .07 * 100 > 7."""
    return math.ceil(round(frac * count, 9))
