"""When a proxy reward stops being worth climbing: the laws of the gold score, and a watch for it.

The proxy is what training raises, a reward model for instance; the gold score is what it stands
for, known from audit labels or an exact checker. d is the square root of KL(policy : reference).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preftune.errors import DataError
from preftune.stats.intervals import z_value

Array = NDArray[np.float64]

FEWEST_POINTS = 3  # two numbers are fitted, so fewer would prove nothing
FAR = 50.0  # a peak at d = e^50 is none
NGRAM = 4  # tokens; a phrase that comes back whole
BY_CHANCE = 0.0228  # one-sided: 2 standard errors where one earlier row is compared with
KL_ALARM = 1.5  # nats per reply; the care desk's facts fell beyond it
LENGTH_RATIO = 1.25  # of the replies to those of the start
MORE_REPETITION = 0.1  # share of n-grams above that of the start
SPREAD_RATIO = 2.0  # of the ensemble's disagreement to that of the start
LENGTH_CORRELATION = 0.5  # a quarter of what the rewards differ by is length
REMEDIES = {
    "over-optimisation": "Go back to the best checkpoint; then try a larger kl_coef, an ensemble "
    "of reward models, or new labels on replies of this policy.",
    "kl": "Try a larger kl_coef, a lower lr or fewer steps, and read some replies.",
    "length": "Look for length bias in the reward model, or take a price per token off the reward.",
    "repetition": "Read some replies; try a larger kl_coef or a lower lr.",
    "ensemble spread": "These replies are unlike those they learnt from: label some of them, or "
    "combine the models by their minimum.",
    "length correlation": "Check the pairs of the reward model: preftune data inspect.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """A fitted curve of gold over d; it is 0 at d = 0, so gold is counted from the reference's.

    best-of-n: d (a - b d). rl: d (a - b ln d). `r2` is the share of the variance it explains.
    """

    name: Literal["best-of-n", "rl"]
    a: float
    b: float
    r2: float

    def at(self, d: ArrayLike) -> Array:
        """Return gold at each d, in the unit of the gold scores it was fitted to."""
        x = np.asarray(d, dtype=float)
        return x * self.a - self.b * _bent(self.name, x)

    @property
    def peak(self) -> float | None:
        """Return d where gold is highest; None if the curve has no top above 0, or a far one."""
        if self.b <= 0 or (self.name == "best-of-n" and self.a <= 0):
            return None
        if self.name == "best-of-n":
            return self.a / (2 * self.b)
        exponent = self.a / self.b - 1
        return math.exp(exponent) if exponent < FAR else None


def fit_best_of_n(
    d: ArrayLike, gold: ArrayLike, *, standard_errors: ArrayLike | None = None
) -> Law:
    """Return the least-squares fit of gold = d (a - b d), the shape under best-of-n.

    Its peak is d = a / (2 b). Points on the curve itself are met exactly, with R^2 1.

    Args:
        d: square root of the KL of each policy in nats, >= 0; best-of-n's is known exactly.
        gold: gold score of each policy less that of the reference.
        standard_errors: of the gold scores, > 0; weighs each point by 1 / its square. None weighs
            them alike.

    Raises:
        DataError: fewer than 3 points, fewer than 2 different d above 0, or a number out of range.

    Source: Gao et al. 2023, arXiv:2210.10760, section 3.1.
    """
    return _fitted("best-of-n", d, gold, standard_errors)


def fit_rl(d: ArrayLike, gold: ArrayLike, *, standard_errors: ArrayLike | None = None) -> Law:
    """Return the least-squares fit of gold = d (a - b ln d), the shape under policy optimisation.

    Its peak is d = e^(a / b - 1). Points on the curve itself are met exactly, with R^2 1.

    Args:
        d: square root of the sampled KL of each policy in nats per reply, >= 0.
        gold: gold score of each policy less that of the reference.
        standard_errors: of the gold scores, > 0, as for `fit_best_of_n`.

    Raises:
        DataError: fewer than 3 points, fewer than 2 different d above 0, or a number out of range.

    Source: Gao et al. 2023, arXiv:2210.10760, section 3.1.
    """
    return _fitted("rl", d, gold, standard_errors)


def repetition(tokens: Sequence[int], *, n: int = NGRAM) -> float:
    """Return the share of n-grams of a reply that it has had before, 0..1.

    1 - different n-grams / all n-grams. A reply without a repeated phrase gives 0, so does one
    shorter than n; one token said L times gives 1 - 1 / (L - n + 1).

    Args:
        tokens: ids of the reply.
        n: length of a phrase in tokens, >= 1.
    """
    grams = [tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What one evaluation of the policy found, means over its replies; None was not measured."""

    step: int
    proxy: float
    kl: float  # nats per reply, sampled, against the reference
    length_tokens: float
    repetition: float  # share, 0..1
    gold: float | None = None
    gold_se: float | None = None  # standard error of gold, comes with it
    ensemble_spread: float | None = None  # standard deviation between the members of an ensemble
    length_correlation: float | None = None  # of reward and length over the replies

    def __post_init__(self) -> None:
        numbers = (getattr(self, each.name) for each in fields(self))
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise DataError(f"step {self.step}: a number is not finite: {self}. Check the scores.")
        if (self.gold is None) != (self.gold_se is None):
            raise DataError(
                f"step {self.step}: gold {self.gold}, gold_se {self.gold_se}. Give both or neither."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """Something found in the newest evaluation, what to try, and whether to stop the run."""

    name: str
    problem: str
    remedy: str
    stop: bool

    def __str__(self) -> str:
        """Return both sentences as one line."""
        return f"{self.problem}. {self.remedy}"


def alarms(rows: Sequence[Evaluation], *, kl_alarm: float = KL_ALARM) -> list[Alarm]:
    """Return what the newest evaluation gives cause for; only over-optimisation asks to stop.

    Over-optimisation: against the row of the best gold so far, proxy is higher and gold lower by
    more than 2 standard errors of their difference; by more where the best is that of many rows,
    for it is then partly luck: 2.5 at the fifth row, 3.0 at the twentieth. The other signs need no
    gold: each compares the newest row with the first one, or with a bound.

    Args:
        rows: of all evaluations so far, the newest last; the first is the policy at its start.
        kl_alarm: nats per reply.

    Raises:
        DataError: no row.
    """
    _require_row(rows)
    problems = {
        "over-optimisation": _over_optimised(rows),
        "kl": _far(rows, kl_alarm),
        "length": _longer(rows),
        "repetition": _repetitive(rows),
        "ensemble spread": _disputed(rows),
        "length correlation": _paid_for_length(rows),
    }
    return [
        Alarm(name=name, problem=problem, remedy=REMEDIES[name], stop=name == "over-optimisation")
        for name, problem in problems.items()
        if problem
    ]


def best(rows: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation to go back to: the highest gold, or the newest where gold is unknown.

    The earlier of two equal ones. Proxy is no guide: an over-optimised policy has most of it.

    Args:
        rows: of all evaluations so far, the newest last.

    Raises:
        DataError: no row.
    """
    _require_row(rows)
    known = [(row.gold, -place) for place, row in enumerate(rows) if row.gold is not None]
    return rows[-max(known)[1]] if known else rows[-1]


def _require_row(rows: Sequence[Evaluation]) -> None:
    if not rows:
        raise DataError("no evaluation yet. Evaluate the policy before it is trained.")


def _over_optimised(rows: Sequence[Evaluation]) -> str:
    top, now = best(rows), rows[-1]
    if now.gold is None or now.gold_se is None or top.gold is None or top.gold_se is None:
        return ""
    earlier = sum(row.gold is not None for row in rows[:-1])
    errors = z_value(1 - BY_CHANCE / max(earlier, 1), sides=1)
    fallen, noise = top.gold - now.gold, errors * math.hypot(top.gold_se, now.gold_se)
    if now.proxy > top.proxy and fallen > noise:
        return (
            f"proxy rose from {top.proxy:.2f} to {now.proxy:.2f} since step {top.step} while gold "
            f"fell from {top.gold:.2f} to {now.gold:.2f} (chance explains {noise:.2f})"
        )
    return ""


def _far(rows: Sequence[Evaluation], kl_alarm: float) -> str:
    kl = rows[-1].kl
    return f"KL is {kl:.2f} nats a reply (alarm {kl_alarm:g})" if kl > kl_alarm else ""


def _longer(rows: Sequence[Evaluation]) -> str:
    start, now = rows[0].length_tokens, rows[-1].length_tokens
    if now > LENGTH_RATIO * start:
        return f"replies have grown from {start:.0f} tokens at the start to {now:.0f}"
    return ""


def _repetitive(rows: Sequence[Evaluation]) -> str:
    start, now = rows[0].repetition, rows[-1].repetition
    if now - start > MORE_REPETITION:
        return f"replies repeat themselves: {now:.0%} of their phrases, {start:.0%} at the start"
    return ""


def _disputed(rows: Sequence[Evaluation]) -> str:
    start, now = rows[0].ensemble_spread, rows[-1].ensemble_spread
    if start is not None and now is not None and now > SPREAD_RATIO * start:
        return f"the reward models disagree by {now:.2f}, at the start by {start:.2f}"
    return ""


def _paid_for_length(rows: Sequence[Evaluation]) -> str:
    found = rows[-1].length_correlation
    if found is not None and abs(found) > LENGTH_CORRELATION:
        kind = "longer" if found > 0 else "shorter"
        return f"reward follows length (correlation {found:+.2f}): {kind} replies are paid for"
    return ""


def _fitted(
    name: Literal["best-of-n", "rl"],
    d: ArrayLike,
    gold: ArrayLike,
    standard_errors: ArrayLike | None,
) -> Law:
    x, y = np.asarray(d, dtype=float), np.asarray(gold, dtype=float)
    error = np.ones_like(y) if standard_errors is None else np.asarray(standard_errors, dtype=float)
    _check_points(x, y, error)
    columns = np.stack([x, -_bent(name, x)], axis=1) / error[:, None]
    (a, b), *_ = np.linalg.lstsq(columns, y / error, rcond=None)
    weight = error**-2.0
    left = (weight * (y - x * a + b * _bent(name, x)) ** 2).sum()
    spread = (weight * (y - np.average(y, weights=weight)) ** 2).sum()
    return Law(name=name, a=float(a), b=float(b), r2=float(1 - left / spread) if spread else 0.0)


def _check_points(x: Array, y: Array, error: Array) -> None:
    if not x.shape == y.shape == error.shape or x.ndim != 1:
        raise DataError(f"law: d {x.shape}, gold {y.shape}. Give one of each per policy.")
    if len(x) < FEWEST_POINTS or len(np.unique(x[x > 0])) < 2:
        raise DataError(
            f"law: {len(x)} points, {len(np.unique(x[x > 0]))} different d above 0. "
            f"Evaluate {FEWEST_POINTS} or more policies at different KL."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all() and (error > 0).all()):
        raise DataError("law: d must be >= 0, standard errors > 0, all finite. Check the points.")


def _bent(name: Literal["best-of-n", "rl"], d: Array) -> Array:
    """Return the part of the law that b multiplies: d^2 or d ln d, which is 0 at 0."""
    if name == "best-of-n":
        return d**2
    return d * np.log(np.where(d > 0, d, 1.0))
