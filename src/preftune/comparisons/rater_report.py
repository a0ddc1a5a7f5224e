"""One row per rater: pace, gold, repeats, sides, agreement with the others, and what to look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preftune.comparisons.rater_figures import by_rater, first_shares, repeat_shares
from preftune.comparisons.vote_table import VoteTable, vote_table
from preftune.stats.shares import Array, Places, Share
from preftune.types import Comparison, Judgment, RaterKind

FEWEST_VOTES = 30  # before a habit is flagged
FEWEST_GOLD = 10
FEWEST_REPEATS = 10
FEWEST_TIMED = 10
STEADY = 0.75  # same answer to repeats: above it nobody is said to contradict themselves
ONE_SIDE = 0.9  # of the decided votes: nobody who reads does that
SIDE_LEAN = 0.1  # off ½, and
SURE = 1.3  # times the half width of the 95 % interval: that of 99 %
TOO_FAST = 1 / 3  # of the median of the raters' medians
OUTCOMES = 3  # first, tie, second, counted in the unit's first order


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterRow:
    """What one rater did. A share is None where nothing was there to count."""

    rater: str
    kind: RaterKind
    votes: int  # verdicts between two responses, replaced ones too
    tie_frac: float
    median_s: float | None  # per verdict
    gold: Share | None  # right answers to gold items
    repeats: Share | None  # the same answer when asked again
    first: Share | None  # decided votes for the response shown first
    others: Share | None  # the other raters who said the same, averaged over this rater's votes
    chance: float | None  # what `others` would be without looking: same habits, random pairs
    flags: tuple[str, ...]


def rater_report(
    judgments: Iterable[Judgment],
    comparisons: Iterable[Comparison] = (),
    *,
    gold: Mapping[str, int] | None = None,
    dimension: str = "overall",
) -> list[RaterRow]:
    """Return a row for each rater of a dimension, most votes first.

    Agreement leaves the rater out: a vote agrees as far as the other raters' last votes on the same
    unit are equal (first, tie, second). Intervals are 95 % and clustered as `vote_table` says.
    Flags, all of them signs to look at and none a verdict:

    - random: 30 votes or more, and neither agreement nor gold can be told from chance;
    - adversary: agreement or gold is below chance, and the other not above it;
    - gold: ten gold items or more, not above chance, though the agreement is;
    - one side: nine tenths of the decided votes are for one place; side: the share is off ½ by ten
      points, and beyond the 99 % interval;
    - too fast: the median is under a third of the median of all raters' medians;
    - contradicts itself: ten repeats or more, under three quarters the same, and not above what the
      rater's habits give by chance.

    Args:
        judgments: in the order given, those of gold and repeat items among them.
        comparisons: as in `vote_table`.
        gold: unit → right answer: 1 its first response is better, 0 a tie, -1 the second. A unit is
            the comparison's id without its order, `ID/i-j` for more than two responses.
        dimension: the one to report on.

    Raises:
        DataError: as `vote_table`.
    """
    return report_of(vote_table(judgments, comparisons, dimension=dimension), gold=gold)


def report_of(votes: VoteTable, *, gold: Mapping[str, int] | None = None) -> list[RaterRow]:
    """Return the rows of `rater_report` from votes that are columns already."""
    count = len(votes.raters)
    said = np.bincount(votes.rater, minlength=count)
    ties = np.bincount(votes.rater, votes.shown == 0, minlength=count) / np.maximum(said, 1)
    medians = _medians(votes)
    others, chance = _agreement(votes)
    gold_shares, gold_chance = _gold(votes, gold or {})
    first, repeats, habit = first_shares(votes), repeat_shares(votes), _habit(votes)
    rows = []
    for k in np.argsort(-said, kind="stable").tolist():
        found = _Found(
            gold=gold_shares[k], gold_chance=gold_chance[k], repeats=repeats[k], first=first[k],
            others=others[k], chance=chance[k], same_by_chance=habit[k],
        )  # fmt: skip
        rows.append(
            RaterRow(
                rater=votes.raters[k],
                kind=votes.kinds[k],
                votes=int(said[k]),
                tie_frac=float(ties[k]),
                median_s=medians.get(k),
                gold=found.gold,
                repeats=found.repeats,
                first=found.first,
                others=found.others,
                chance=found.chance,
                flags=(*_quality_flags(found), *_side_flags(found), *_pace_flags(k, medians)),
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The shares of one rater, and what chance gives."""

    gold: Share | None
    gold_chance: float | None
    repeats: Share | None
    first: Share | None
    others: Share | None
    chance: float | None
    same_by_chance: float


def _medians(votes: VoteTable) -> dict[int, float]:
    """Return the median seconds of each rater who was timed often enough."""
    timed = ~np.isnan(votes.seconds)
    rater, seconds = votes.rater[timed], votes.seconds[timed]
    order = np.argsort(rater, kind="stable")
    starts = np.searchsorted(rater[order], np.arange(len(votes.raters) + 1))
    taken = seconds[order]
    return {
        k: float(np.median(taken[a:b]))
        for k, (a, b) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
        if b - a >= FEWEST_TIMED
    }


def _gold(
    votes: VoteTable, gold: Mapping[str, int]
) -> tuple[list[Share | None], list[float | None]]:
    """Return the share of FIRST answers to gold units that are right, and what chance gives.

    Later answers may follow feedback.
    """
    known = np.array([unit in gold for unit in votes.units], dtype=bool)
    truth = np.array([gold.get(unit, 0) for unit in votes.units], dtype=np.int64)
    asked = votes.where(known[votes.unit] & _first_time(votes))
    right = np.eye(OUTCOMES)[1 - truth[asked.unit]]
    outcome = 1 - asked.vote.astype(np.int64)
    return by_rater(asked, asked.vote == truth[asked.unit]), _chance(asked, outcome, right)


def _agreement(votes: VoteTable) -> tuple[list[Share | None], list[float | None]]:
    """Return each rater's mean share of equal other votes, and what chance would give."""
    last = votes.where(votes.last())
    outcome = 1 - last.vote.astype(np.int64)
    counts = np.bincount(last.unit * OUTCOMES + outcome, minlength=len(votes.units) * OUTCOMES)
    table = counts.reshape(-1, OUTCOMES)
    rest = table[last.unit].astype(float)
    rest[np.arange(len(last)), outcome] -= 1  # leave the rater out
    others = rest.sum(1)
    heard = others > 0
    kept, outcome = last.where(heard), outcome[heard]
    spread = rest[heard] / others[heard, None]
    same = spread[np.arange(len(kept)), outcome]
    return by_rater(kept, same), _chance(kept, outcome, spread)


def _chance(votes: VoteTable, outcome: Places, spread: Array) -> list[float | None]:
    """Return Σ P(rater says it) P(others say it) per rater: agreement without looking.

    `spread` [V, 3] is what the others, or gold, say where the rater voted.
    """
    count = len(votes.raters)
    n = np.bincount(votes.rater, minlength=count)
    own = _table(votes.rater, outcome, count) / np.maximum(n, 1)[:, None]
    theirs = np.stack(
        [np.bincount(votes.rater, spread[:, c], minlength=count) for c in range(OUTCOMES)], 1
    )
    expected = (own * theirs).sum(1) / np.maximum(n, 1)
    return [float(p) if k else None for p, k in zip(expected, n, strict=True)]


def _habit(votes: VoteTable) -> list[float]:
    """Return how often two unrelated votes of one rater are equal, Σ p²."""
    count = len(votes.raters)
    n = np.maximum(np.bincount(votes.rater, minlength=count), 1)
    own = _table(votes.rater, 1 - votes.vote.astype(np.int64), count) / n[:, None]
    return list((own**2).sum(1).tolist())


def _table(rater: Places, outcome: Places, count: int) -> NDArray[np.int64]:
    flat = np.bincount(rater * OUTCOMES + outcome, minlength=count * OUTCOMES)
    return flat.reshape(count, OUTCOMES)


def _first_time(votes: VoteTable) -> NDArray[np.bool_]:
    key = votes.rater * len(votes.units) + votes.unit
    kept = np.zeros(len(votes), dtype=bool)
    kept[np.unique(key, return_index=True)[1]] = True
    return kept


def _quality_flags(found: _Found) -> list[str]:
    """Flag votes that say nothing, or the opposite."""
    evidence = []
    if found.others is not None and found.chance is not None and found.others.n >= FEWEST_VOTES:
        evidence.append((found.others, found.chance, "the other raters"))
    if found.gold is not None and found.gold_chance is not None and found.gold.n >= FEWEST_GOLD:
        evidence.append((found.gold, found.gold_chance, "gold"))
    above = [part for part, chance, _ in evidence if part.low > chance]
    below = [name for part, chance, name in evidence if part.high < chance]
    flags = []
    if below and not above:
        flags.append(f"adversary: against {' and '.join(below)}")
    elif evidence and not above:
        flags.append("random: cannot be told from chance")
    elif evidence and evidence[-1][2] == "gold" and evidence[-1][0] not in above:
        flags.append(f"gold: right in {found.gold}")
    if (
        found.repeats is not None
        and found.repeats.n >= FEWEST_REPEATS
        and found.repeats.value < STEADY
        and found.repeats.low <= found.same_by_chance
    ):
        flags.append(f"contradicts itself: same answer in {found.repeats}")
    return flags


def _side_flags(found: _Found) -> list[str]:
    first = found.first
    if first is None or first.n < FEWEST_VOTES:
        return []
    side = "first" if first.value > 0.5 else "second"
    most = max(first.value, 1 - first.value)
    if most >= ONE_SIDE:
        return [f"one side: {most:.0%} for the {side} shown"]
    if most - 0.5 >= max(SIDE_LEAN, SURE * (first.high - first.low) / 2):
        return [f"side: {most:.0%} for the {side} shown"]
    return []


def _pace_flags(rater: int, medians: Mapping[int, float]) -> list[str]:
    if rater not in medians or len(medians) < 3:
        return []
    usual = float(np.median(list(medians.values())))
    if medians[rater] >= TOO_FAST * usual:
        return []
    return [f"too fast: {medians[rater]:.1f} s, the usual is {usual:.1f} s"]
