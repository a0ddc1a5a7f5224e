"""Rater models: who is reliable, what votes are worth together, how high agreement can get."""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from preftune.errors import DataError


def flip_rate(agreement: float) -> float:
    """Return the share of wrong labels that explains how often repeats of one pair agree.

    Two votes, each flipped with probability e, agree with probability a = e² + (1 - e)²; this
    returns the e up to ½. Agreement .68 gives .2.

    Raises:
        DataError: agreement outside ½..1; below ½ independent flips cannot explain it.
    """
    if not 0.5 <= agreement <= 1:
        raise DataError(
            f"flip_rate: repeats agree in {agreement:.3f}. Independent flips give ½..1; below that "
            "look for a rater or a screen that turns answers round."
        )
    return (1 - math.sqrt(2 * agreement - 1)) / 2


def agreement_ceiling(gap: float) -> float:
    """Return how often two perfect Bradley–Terry raters agree on a pair `gap` nats apart.

    p² + (1 - p)² with p = sigmoid(gap): print it beside kappa, for no rater can beat it.
    """
    p = _sigmoid(gap)
    return p * p + (1 - p) * (1 - p)


def label_log_odds(
    for_it: Iterable[float], against: Iterable[float] = (), *, prior: float = 0.0
) -> float:
    """Return the log odds that a label is right, from the accuracies of the raters who voted.

    prior + Σ logit(accuracy) of those for it - Σ logit(accuracy) of those against, in nats.
    .9 and .8 for, .7 against: 2.736221.

    Raises:
        DataError: an accuracy that is not inside 0..1; a rater who is never wrong settles nothing.
    """
    return prior + math.fsum(map(_logit, for_it)) - math.fsum(map(_logit, against))


def label_probability(
    for_it: Iterable[float], against: Iterable[float] = (), *, prior: float = 0.0
) -> float:
    """Return the probability that a label is right: the sigmoid of `label_log_odds`.

    This is the `probability` of a pair whose raters' accuracies are known; .9 and .8 for, .7
    against give .939130.

    Raises:
        DataError: an accuracy that is not inside 0..1.
    """
    return _sigmoid(label_log_odds(for_it, against, prior=prior))


@dataclass(frozen=True, kw_only=True, slots=True)
class DawidSkene:
    """What each item most likely is, and how good each rater is."""

    probability: dict[Hashable, float]  # per item, that its true label is 1
    sensitivity: dict[Hashable, float]  # per rater, P(says 1 | truth 1)
    specificity: dict[Hashable, float]  # per rater, P(says 0 | truth 0)
    prior: float  # share of items whose truth is 1
    rounds: int

    @property
    def accuracies(self) -> dict[Hashable, float]:
        """Per rater, the probability of a right vote; below ½ is an adversary."""
        return {
            rater: self.prior * hit + (1 - self.prior) * self.specificity[rater]
            for rater, hit in self.sensitivity.items()
        }


def dawid_skene(
    votes: Iterable[tuple[Hashable, Hashable, int]], *, max_rounds: int = 10_000
) -> DawidSkene:
    """Return item labels and rater accuracies that explain sparse binary votes best.

    `fit_confusion` with the labels 0 and 1. Three raters on eight items (110 three times, 001 three
    times, 100, 011): the first six are settled at .969994, and the third rater, right in .200610,
    is the adversary.

    Args:
        votes: (item, rater, 0 or 1) triples.
        max_rounds: gives up, with an error, after this many.

    Raises:
        DataError: a vote other than 0 or 1, no votes, no convergence, or most raters no better
            than chance: then "right" and "wrong" cannot be told apart.

    Source: Dawid & Skene 1979.
    """
    said = list(votes)
    if not said or not {vote for _, _, vote in said} <= {0, 1}:
        raise DataError("dawid_skene: needs votes of 0 or 1. Leave ties out, or count them apart.")
    from preftune.comparisons.confusion import fit_confusion  # scipy; a server starts without

    fit = fit_confusion(said, labels=(0, 1), max_rounds=max_rounds)
    return DawidSkene(
        probability=dict(zip(fit.items, fit.probability[:, 1].tolist(), strict=True)),
        sensitivity=dict(zip(fit.raters, fit.matrices[:, 1, 1].tolist(), strict=True)),
        specificity=dict(zip(fit.raters, fit.matrices[:, 0, 0].tolist(), strict=True)),
        prior=float(fit.prior[1]),
        rounds=fit.rounds,
    )


def _logit(p: float) -> float:
    if not 0 < p < 1:
        raise DataError(
            f"accuracy {p}: not inside 0..1. Use a smoothed share, such as (right + 1) / (n + 2)."
        )
    return math.log(p / (1 - p))


def _sigmoid(z: float) -> float:
    return 0.5 * (1 + math.tanh(z / 2))
