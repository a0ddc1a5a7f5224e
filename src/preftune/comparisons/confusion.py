"""Dawid and Skene's model for any number of labels: one confusion matrix per rater."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax

from preftune.errors import DataError

Array = NDArray[np.float64]
SETTLED = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """What each item most likely is, and what each rater says of items of each kind."""

    labels: tuple[Hashable, ...]  # [K]
    items: tuple[Hashable, ...]  # [N]
    raters: tuple[Hashable, ...]  # [R]
    probability: Array  # [N, K]: that the item's true label is this one
    matrices: Array  # [R, K, K]: P(rater says the column | truth is the row)
    prior: Array  # [K]: share of the items with this true label
    rounds: int

    @property
    def accuracy(self) -> Array:
        """Probability of a right vote of each rater, [R], over items as they are."""
        return np.asarray(np.einsum("k,rkk->r", self.prior, self.matrices))


def fit_confusion(
    votes: Iterable[tuple[Hashable, Hashable, Hashable]],
    *,
    labels: Iterable[Hashable] = (),
    max_rounds: int = 10_000,
) -> Confusion:
    """Return item labels and confusion matrices that explain sparse votes best.

    Expectation–maximisation from the vote shares, rows of the matrices add-one smoothed, until no
    probability moves by 1e-12. A rater's second vote on an item replaces the first. A tie may be a
    label like any other.

    Args:
        votes: (item, rater, label) triples.
        labels: all the labels, in the order wanted; those of the votes, as met, when left out.
        max_rounds: gives up, with an error, after this many.

    Raises:
        DataError: no votes, a vote that is not among the labels, no convergence, or most raters no
            better than chance: then right and wrong cannot be told apart.

    Source: Dawid & Skene 1979, J. R. Stat. Soc. C 28.
    """
    last = {(item, rater): label for item, rater, label in votes}
    names = tuple(labels) or tuple(dict.fromkeys(last.values()))
    unknown = set(last.values()) - set(names)
    if not last or len(names) < 2 or unknown:
        what = f"votes {sorted(map(repr, unknown))[:3]}" if unknown else f"{len(last)} votes"
        raise DataError(f"dawid_skene: {what} for labels {names}. Give votes among two or more.")
    items, item_at = _places(item for item, _ in last)
    raters, rater_at = _places(rater for _, rater in last)
    label_at = np.array([names.index(label) for label in last.values()])
    said = sparse.csr_matrix(
        (np.ones(len(last)), (item_at, rater_at * len(names) + label_at)),
        shape=(len(items), len(raters) * len(names)),
    )
    fit = _maximise(said, len(names), max_rounds)
    _refuse_blind(raters, fit[1])
    probability, matrices, prior, rounds = fit
    return Confusion(
        labels=names,
        items=items,
        raters=raters,
        probability=probability,
        matrices=matrices,
        prior=prior,
        rounds=rounds,
    )


def _maximise(
    said: sparse.csr_matrix, labels: int, max_rounds: int
) -> tuple[Array, Array, Array, int]:
    """Alternate matrices [R, K, K] and item probabilities [N, K] until these settle."""
    raters = said.shape[1] // labels
    votes = np.asarray(said.sum(1)).ravel()
    q = np.stack([np.asarray(said[:, k::labels].sum(1)).ravel() for k in range(labels)], 1)
    q /= votes[:, None]
    across = said.T.tocsr()
    for rounds in range(1, max_rounds + 1):
        counts = (across @ q).reshape(raters, labels, labels).transpose(0, 2, 1) + 1
        matrices = counts / counts.sum(2, keepdims=True)
        prior = np.maximum(q.mean(0), 1e-12)
        evidence = said @ np.log(matrices).transpose(0, 2, 1).reshape(-1, labels)
        new = softmax(np.log(prior) + evidence, axis=1)
        moved, q = float(np.abs(new - q).max()), new
        if moved < SETTLED:
            return q, matrices, prior, rounds
    raise DataError(f"dawid_skene: not settled after {max_rounds} rounds. Give more rounds.")


def _refuse_blind(raters: tuple[Hashable, ...], matrices: Array) -> None:
    """Raise where most raters' right answers are no likelier than a blind guess."""
    labels = matrices.shape[1]
    right = np.einsum("rkk->r", matrices) / labels
    poor = [rater for rater, p in zip(raters, right, strict=True) if p <= (1 + 1e-9) / labels]
    if 2 * len(poor) > len(raters):
        raise DataError(
            f"dawid_skene: {len(poor)} of {len(raters)} raters look no better than chance "
            f"({', '.join(map(str, poor[:5]))}). Check the labels, or add raters you trust."
        )


def _places(found: Iterable[Hashable]) -> tuple[tuple[Hashable, ...], NDArray[np.int64]]:
    """Return the distinct names as met, and the place of each found one."""
    place: dict[Hashable, int] = {}
    at = np.array([place.setdefault(name, len(place)) for name in found], dtype=np.int64)
    return tuple(place), at
