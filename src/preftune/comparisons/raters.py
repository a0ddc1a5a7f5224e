"""Rater models: who is reliable, what votes are worth together, how high agreement can get."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.errors import DataError

Array = NDArray[np.float64]


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

    Expectation–maximisation from the vote shares, rates add-one smoothed, until no item moves by
    1e-12. A rater's second vote on an item replaces the first.

    Args:
        votes: (item, rater, 0 or 1) triples.
        max_rounds: gives up, with an error, after this many.

    Raises:
        DataError: a vote other than 0 or 1, no votes, no convergence, or most raters no better
            than chance: then "right" and "wrong" cannot be told apart.

    Source: Dawid & Skene 1979.
    """
    last = {(item, rater): vote for item, rater, vote in votes}
    if not last or not set(last.values()) <= {0, 1}:
        raise DataError("dawid_skene: needs votes of 0 or 1. Leave ties out, or count them apart.")
    items = list(dict.fromkeys(item for item, _ in last))
    raters = list(dict.fromkeys(rater for _, rater in last))
    table = _Votes(
        item=_places(items, [item for item, _ in last]),
        rater=_places(raters, [rater for _, rater in last]),
        vote=np.array(list(last.values()), dtype=float),
    )
    q, sensitivity, specificity, prior, rounds = _maximise(table, max_rounds)
    poor = [
        r
        for r, informed in zip(raters, sensitivity + specificity, strict=True)
        if informed <= 1 + 1e-9
    ]
    if 2 * len(poor) > len(raters):
        raise DataError(
            f"dawid_skene: {len(poor)} of {len(raters)} raters look no better than chance "
            f"({', '.join(map(str, poor[:5]))}). Check the labels, or add raters you trust."
        )
    return DawidSkene(
        probability=dict(zip(items, q.tolist(), strict=True)),
        sensitivity=dict(zip(raters, sensitivity.tolist(), strict=True)),
        specificity=dict(zip(raters, specificity.tolist(), strict=True)),
        prior=prior,
        rounds=rounds,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Votes:
    """Votes as columns [V]: place of the item, place of the rater, 0 or 1."""

    item: NDArray[np.int64]
    rater: NDArray[np.int64]
    vote: Array


def _maximise(table: _Votes, max_rounds: int) -> tuple[Array, Array, Array, float, int]:
    q = np.bincount(table.item, table.vote) / np.bincount(table.item)
    for rounds in range(1, max_rounds + 1):
        truth = q[table.item]
        sensitivity = _rate(table.rater, truth, table.vote)
        specificity = _rate(table.rater, 1 - truth, 1 - table.vote)
        prior = float(np.clip(q.mean(), 1e-12, 1 - 1e-12))
        said_1 = np.log(sensitivity / (1 - specificity))[table.rater]
        said_0 = np.log((1 - sensitivity) / specificity)[table.rater]
        evidence = np.bincount(table.item, np.where(table.vote == 1, said_1, said_0))
        new = 0.5 * (1 + np.tanh((_logit(prior) + evidence) / 2))
        moved, q = float(np.abs(new - q).max()), new
        if moved < 1e-12:
            return q, sensitivity, specificity, prior, rounds
    raise DataError(f"dawid_skene: not settled after {max_rounds} rounds. Give more rounds.")


def _rate(rater: NDArray[np.int64], truth: Array, said: Array) -> Array:
    """Add-one smoothed share of `said` among the votes on items of this truth, per rater."""
    return np.asarray((np.bincount(rater, truth * said) + 1) / (np.bincount(rater, truth) + 2))


def _places(names: Sequence[Hashable], found: Sequence[Hashable]) -> NDArray[np.int64]:
    place = {name: index for index, name in enumerate(names)}
    return np.array([place[name] for name in found], dtype=np.int64)


def _logit(p: float) -> float:
    if not 0 < p < 1:
        raise DataError(
            f"accuracy {p}: not inside 0..1. Use a smoothed share, such as (right + 1) / (n + 2)."
        )
    return math.log(p / (1 - p))


def _sigmoid(z: float) -> float:
    return 0.5 * (1 + math.tanh(z / 2))
