"""Do raters favour a place or a length? Shares with clustered intervals, and their direction."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from preftune.comparisons.vote_table import VoteTable, vote_table
from preftune.comparisons.votes import SWAPPED
from preftune.errors import DataError
from preftune.stats.intervals import wilson
from preftune.stats.shares import Share, grouped_shares, share
from preftune.types import Comparison, Judgment, RankedList, text_of

By = Literal["rater", "kind"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lean:
    """How often one of two sides wins, of the votes that decided between them."""

    who: str  # a rater, or a kind of raters
    towards: str  # what a share above ½ favours
    away: str  # what a share below ½ favours
    share: Share

    @property
    def alarm(self) -> bool:
        """Whether the interval leaves ½ out."""
        return self.share.differs_from(0.5)

    @property
    def sign(self) -> int:
        """1 where `towards` is favoured, -1 where `away` is, 0 where the interval holds ½."""
        return (1 if self.share.value > 0.5 else -1) if self.alarm else 0

    def __str__(self) -> str:
        """Return who leans where, such as `gpt-4: first shown 56 % (55–57) of 9,566: alarm`."""
        verdict = {0: "no clear lean", 1: f"favours {self.towards}", -1: f"favours {self.away}"}
        return f"{self.who}: {self.towards} wins {self.share}: {verdict[self.sign]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBias:
    """How often the shorter or the longer response won, over all decisions of a file."""

    shorter: int
    longer: int
    equal: int

    @property
    def n(self) -> int:
        """All wins."""
        return self.shorter + self.longer + self.equal

    @property
    def unequal(self) -> int:
        """Wins between responses of different lengths."""
        return self.shorter + self.longer

    @property
    def shorter_wins_frac(self) -> float:
        """How often "shorter wins" is right, of all wins; equal lengths count as wrong."""
        return self.shorter / self.n

    @property
    def longer_wins_frac(self) -> float:
        """How often the longer response won, of the wins between different lengths."""
        return self.longer / self.unequal

    @property
    def lean(self) -> Lean | None:
        """The share that the longer wins of unequal lengths; None without any."""
        if not self.unequal:
            return None
        found = wilson(self.longer, self.unequal)
        share = Share(value=self.longer_wins_frac, n=self.unequal, low=found.low, high=found.high)
        return Lean(who="all decisions", towards="the longer", away="the shorter", share=share)

    def direction(self) -> str:
        """Say in words which length wins, by the 95 % interval against one half."""
        if self.lean is None:
            return "no pair of different lengths"
        return {
            1: "the LONGER response wins more often",
            -1: "the SHORTER response wins more often",
            0: "no clear direction: the interval holds one half",
        }[self.lean.sign]


def length_wins(sizes: Iterable[tuple[int, int]]) -> LengthBias:
    """Return which length won how often, from (better, worse) lengths of each decision."""
    signs = Counter((better > worse) - (better < worse) for better, worse in sizes)
    return LengthBias(shorter=signs[-1], longer=signs[1], equal=signs[0])


def position_bias(votes: VoteTable, *, by: By = "rater") -> list[Lean]:
    """Return how often the response shown first wins, per rater or kind, of the decided votes.

    Only where sides were drawn by chance, or both orders shown, does a share off ½ speak of the
    rater; else it may speak of the answers. `rater_ratings` takes the answers out.
    """
    decided = votes.where(votes.shown != 0)
    return _leans(decided, decided.shown > 0, by, ("the first shown", "the second shown"))


def length_bias(
    judgments: Iterable[Judgment],
    comparisons: Sequence[Comparison],
    *,
    by: By = "rater",
    dimension: str = "overall",
) -> list[Lean]:
    """Return how often the longer response wins, per rater or kind, in characters.

    Of the decided votes on two responses of different lengths. It is no fault by itself: longer
    answers can be better ones.

    Raises:
        DataError: as `vote_table`.
    """
    votes = vote_table(judgments, comparisons, dimension=dimension)
    longer = _longer_first(votes, comparisons)[votes.unit]  # in the unit's first order
    keep = (votes.shown != 0) & (longer != 0)
    kept = votes.where(keep)
    return _leans(kept, kept.vote == longer[keep], by, ("the longer", "the shorter"))


def length_bias_of_lists(lists: Iterable[RankedList]) -> Lean | None:
    """Return how often the longer response ranks higher, over all two of different rank and length.

    None where no list holds such two. The interval counts prompts, not pairs.
    """
    values, clusters = [], []
    place: dict[str, int] = {}
    for ranked in lists:
        sizes = [len(text_of(messages)) for messages in ranked.responses]
        for (rank, size), (lower, other) in combinations(zip(ranked.ranks, sizes, strict=True), 2):
            if rank != lower and size != other:
                values.append(size > other)  # ranks rise, so the first of the two is better
                clusters.append(place.setdefault(ranked.prompt.id, len(place)))
    found = share(values, clusters)
    if found is None:
        return None
    return Lean(who="ranked lists", towards="the longer", away="the shorter", share=found)


def _leans(votes: VoteTable, values: ArrayLike, by: By, sides: tuple[str, str]) -> list[Lean]:
    if by == "rater":
        names: tuple[str, ...] = votes.raters
        group = votes.rater
    else:
        names = tuple(dict.fromkeys(votes.kinds))
        group = np.array([names.index(kind) for kind in votes.kinds], dtype=np.int64)[votes.rater]
    shares = grouped_shares(
        values, groups=group, clusters=votes.cluster[votes.unit], count=len(names)
    )
    found = zip(names, shares, strict=True)
    return [
        Lean(who=name, towards=sides[0], away=sides[1], share=part)
        for name, part in found
        if part is not None
    ]


def _longer_first(votes: VoteTable, comparisons: Iterable[Comparison]) -> np.ndarray:
    """Return for each unit 1 where its first response is the longer, -1 the second, 0 equal."""
    sizes: dict[str, list[int]] = {}
    for shown in comparisons:
        lengths = [len(text_of(response.messages)) for response in shown.responses]
        swapped = shown.id.endswith(SWAPPED)
        sizes.setdefault(shown.id.removesuffix(SWAPPED), lengths[::-1] if swapped else lengths)
    found = np.zeros(len(votes.units), dtype=np.int8)
    for at, unit in enumerate(votes.units):
        base, i, j = _two(unit, sizes)
        found[at] = (sizes[base][i] > sizes[base][j]) - (sizes[base][i] < sizes[base][j])
    return found


def _two(unit: str, sizes: dict[str, list[int]]) -> tuple[str, int, int]:
    """Return comparison and places of a unit: all of a comparison of two, or `ID/i-j`."""
    if unit in sizes and len(sizes[unit]) == 2:
        return unit, 0, 1
    base, _, pair = unit.rpartition("/")
    if base not in sizes:
        raise DataError(f"unit {unit}: its comparison is not among those given. Give them all.")
    i, j = map(int, pair.split("-"))
    return base, i, j
