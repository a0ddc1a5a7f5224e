"""Length: does the candidate win because it is better, or because it says more?"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import expit

from preftune.errors import DataError
from preftune.evaluation.measures import Measure
from preftune.stats.bootstrap import bootstrap_ratios, percentile_interval, share_interval
from preftune.stats.intervals import cluster_places, z_value

RIDGE = 0.01
NEWTON_STEPS = 100
NAME = "length_controlled_win_rate"


def length_ratio(
    *,
    candidate: Sequence[float],
    baseline: Sequence[float],
    prompts: Sequence[Hashable],
    unit: str,
    seed: int = 0,
) -> Measure:
    """Return mean candidate length / mean baseline length, with a bootstrap interval over prompts.

    Args:
        candidate: length of each reply of the candidate.
        baseline: length of the reply it was compared with, in the same unit.
        prompts: prompt id of each couple.
        unit: what was counted, such as characters or tokens.
        seed: of the bootstrap.

    Raises:
        DataError: lengths of the arguments differ, or the baseline says nothing at all.
    """
    if sum(baseline) <= 0:
        raise DataError("length_ratio: every baseline reply is empty. Look at the baseline first.")
    shown = len(set(prompts))
    interval = None
    if shown > 1:
        draws = bootstrap_ratios(candidate, baseline, prompts, seed=seed)
        interval = percentile_interval(draws[np.isfinite(draws)])
    return Measure(
        name="length_ratio",
        value=sum(candidate) / sum(baseline),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        n=shown,
        note=f"mean {unit} per reply: {np.mean(candidate):.1f} against {np.mean(baseline):.1f}",
    )


def length_controlled_win_rate(
    *, wins: Sequence[float], deltas: Sequence[float], prompts: Sequence[Hashable]
) -> Measure | None:
    """Return the win rate the candidate would have at equal length.

    Logistic: `logit P(win) = theta + phi·tanh(delta / sd)`, ridge ½·.01·phi²; the result is
    sigmoid(theta). sd has n - 1. Swapping the systems gives 1 minus it. The interval is Wald's on
    theta, with errors clustered by prompt. AlpacaEval 2 adds a difficulty per instruction; there
    is no such table here, so this leaves it out.

    Args:
        wins: 1, ½ or 0 for each comparison.
        deltas: length of the candidate's reply minus the baseline's.
        prompts: prompt id of each comparison.

    Returns:
        None when length cannot be told apart from the systems: every delta is the same and not 0.

    Source: Dubois et al. 2024, arXiv:2404.04475, without its instruction term.
    """
    y, delta = np.asarray(wins, dtype=np.float64), np.asarray(deltas, dtype=np.float64)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    if spread == 0.0 and delta.any():
        return None
    raw, shown = float(y.mean()), len(set(prompts))
    note = f"raw {raw:.3f}"
    if raw in (0.0, 1.0):  # theta has no finite best value; length explains nothing
        sure = share_interval(y.tolist(), prompts)
        return Measure(name=NAME, value=raw, low=sure.low, high=sure.high, n=shown, note=note)
    tilt = np.tanh(delta / spread) if spread else np.zeros_like(delta)
    theta, error = _fit(y, tilt, cluster_places(prompts))
    reach = z_value(0.95) * error
    return Measure(
        name=NAME,
        value=float(expit(theta)),
        low=float(expit(theta - reach)) if shown > 1 else None,
        high=float(expit(theta + reach)) if shown > 1 else None,
        n=shown,
        note=note,
    )


def _fit(y: np.ndarray, tilt: np.ndarray, place: np.ndarray) -> tuple[float, float]:
    """Return theta by Newton's method and its clustered (sandwich) standard error."""
    x = np.stack([np.ones_like(tilt), tilt], axis=1)
    ridge = np.diag([0.0, RIDGE])
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        p = expit(x @ weights)
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + ridge
        step = np.linalg.solve(curvature, x.T @ (y - p) - ridge @ weights)
        weights += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-12:
            break
    p = expit(x @ weights)
    inverse = np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]) + ridge)
    groups = int(place.max()) + 1
    per_prompt = np.zeros((groups, 2))
    np.add.at(per_prompt, place, x * (y - p)[:, None])
    spread = inverse @ (per_prompt.T @ per_prompt) @ inverse * groups / max(1, groups - 1)
    return float(weights[0]), float(np.sqrt(spread[0, 0]))
