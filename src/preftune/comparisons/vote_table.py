"""Verdicts as columns of numbers, so that a million of them are counted in a moment."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from preftune.comparisons.votes import SWAPPED, between
from preftune.errors import DataError
from preftune.stats.intervals import cluster_places
from preftune.types import Comparison, Judgment, RaterKind

FEWEST_PROMPTS = 30  # fewer prompts say nothing of other prompts

Places = NDArray[np.int64]
Flags = NDArray[np.bool_]
Clusters = Literal["prompt", "comparison"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteTable:
    """Votes between two responses as columns [V], in the order in which they were given.

    A comparison and its swap are one unit. A verdict on k > 2 responses is one vote per two of them
    that it says something of, each two a unit `ID/i-j`.
    """

    units: tuple[str, ...]  # [U]
    raters: tuple[str, ...]  # [R]
    kinds: tuple[RaterKind, ...]  # [R]
    clusters: Clusters  # what the intervals count
    cluster: Places  # [U]: place of the unit's prompt or comparison
    unit: Places
    rater: Places
    shown: NDArray[np.int8]  # 1: the first shown is better, 0: tie, -1: the second shown
    swapped: Flags  # shown in the reverse of the unit's first order
    seconds: NDArray[np.float64]  # nan where not measured

    def __len__(self) -> int:
        return len(self.unit)

    @property
    def vote(self) -> NDArray[np.int8]:
        """1, 0 or -1 counted in the unit's first order, [V]."""
        return np.where(self.swapped, -self.shown, self.shown).astype(np.int8)

    def last(self, *, by_order: bool = False) -> Flags:
        """Whether no later vote of the same rater on the same unit replaces it, [V].

        Args:
            by_order: a vote in the other order does not replace it.
        """
        key = self.rater * len(self.units) + self.unit
        if by_order:
            key = 2 * key + self.swapped
        kept = np.zeros(len(key), dtype=bool)
        kept[len(key) - 1 - np.unique(key[::-1], return_index=True)[1]] = True
        return kept

    def where(self, keep: Flags) -> "VoteTable":
        """Return the table with some of its votes; units and raters keep their places."""
        return VoteTable(
            units=self.units,
            raters=self.raters,
            kinds=self.kinds,
            clusters=self.clusters,
            cluster=self.cluster,
            unit=self.unit[keep],
            rater=self.rater[keep],
            shown=self.shown[keep],
            swapped=self.swapped[keep],
            seconds=self.seconds[keep],
        )


def vote_table(
    judgments: Iterable[Judgment],
    comparisons: Iterable[Comparison] = (),
    *,
    dimension: str = "overall",
) -> VoteTable:
    """Return the votes of one dimension; rewrites and unparsed answers hold none.

    Args:
        judgments: in the order given.
        comparisons: tell the prompt of each unit and how many responses a choice was among.
            Without them a choice is one of two. From 30 prompts on intervals count prompts; below,
            or where the prompts are not known, they count comparisons and speak of these prompts
            alone.
        dimension: the one to take.

    Raises:
        DataError: comparisons are given and a judged one is not among them, or a verdict does not
            fit the responses shown.
    """
    known = {shown.id: shown for shown in comparisons}
    unit_place: dict[str, int] = {}
    rater_place: dict[str, int] = {}
    kinds: list[RaterKind] = []
    asked: list[str] = []  # comparison of each unit, in any order it was shown
    columns: list[tuple[int, int, int, bool, float]] = []
    for judgment in judgments:
        if judgment.dimension != dimension:
            continue
        rater = rater_place.setdefault(judgment.rater.id, len(rater_place))
        if rater == len(kinds):
            kinds.append(judgment.rater.kind)
        seconds = float("nan") if judgment.seconds is None else judgment.seconds
        swapped = judgment.comparison_id.endswith(SWAPPED)
        for name, shown in _votes(judgment, known):
            unit = unit_place.setdefault(name, len(unit_place))
            if unit == len(asked):
                asked.append(judgment.comparison_id)
            columns.append((unit, rater, shown, swapped, seconds))
    table = np.fromiter(chain.from_iterable(columns), dtype=float).reshape(-1, 5)
    clusters, cluster = _clusters(asked, known)
    return VoteTable(
        units=tuple(unit_place),
        raters=tuple(rater_place),
        kinds=tuple(kinds),
        clusters=clusters,
        cluster=cluster,
        unit=table[:, 0].astype(np.int64),
        rater=table[:, 1].astype(np.int64),
        shown=table[:, 2].astype(np.int8),
        swapped=table[:, 3].astype(bool),
        seconds=table[:, 4],
    )


def _clusters(asked: Sequence[str], known: Mapping[str, Comparison]) -> tuple[Clusters, Places]:
    """Return what the units are clustered by, and the cluster of each."""
    prompts = [known[name].prompt.id for name in asked if name in known]
    if len(set(prompts)) >= FEWEST_PROMPTS:
        return "prompt", cluster_places(prompts)
    return "comparison", cluster_places([name.removesuffix(SWAPPED) for name in asked])


def _votes(judgment: Judgment, known: Mapping[str, Comparison]) -> Iterator[tuple[str, int]]:
    """Yield the unit and which of its two responses was better as shown: 1 first, 0 tie, -1."""
    if judgment.kind in ("rewrite", "unparsed"):
        return
    name = judgment.comparison_id
    size = _size(judgment, known)
    base = name.removesuffix(SWAPPED)
    if size == 2:
        yield base, _sign(between(judgment, 0, 1))
        return
    for i, j in combinations(range(size), 2):
        signed = between(judgment, i, j)
        if signed is not None:
            a, b = (size - 1 - j, size - 1 - i) if name.endswith(SWAPPED) else (i, j)
            yield f"{base}/{a}-{b}", _sign(signed)


def _size(judgment: Judgment, known: Mapping[str, Comparison]) -> int:
    """Return how many responses the judgment compares."""
    ranked = [place for group in judgment.ranking for place in group]
    if known and judgment.comparison_id not in known:
        raise DataError(
            f"judgment {judgment.id}: comparison {judgment.comparison_id} is not among those "
            "given. Give the comparisons that were judged."
        )
    size = len(known[judgment.comparison_id].responses) if known else len(ranked) or 2
    chosen = judgment.choice if judgment.choice is not None else 0
    fits = not ranked or sorted(ranked) == list(range(size))
    if not (fits and 0 <= chosen < size and (size == 2 or judgment.kind != "scale")):
        raise DataError(
            f"judgment {judgment.id}: its verdict does not fit {size} responses. Give the "
            "comparisons that were judged; count positions from 0, grade only two."
        )
    return size


def _sign(signed: float | None) -> int:
    return 0 if signed is None else (signed > 0) - (signed < 0)
