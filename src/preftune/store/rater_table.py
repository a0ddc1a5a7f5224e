"""The lead's table of raters, and what a dataset would be without one of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from preftune.stats.intervals import Interval, wilson
from preftune.store.verdicts import REWRITTEN, TIE, Ints, Verdicts, last_of

LEAST = 20  # cases before a flag is raised
SURE = 0.99  # level of the interval that has to leave a value out before a flag is raised
HURRY = 0.25  # of the median rater's seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """So many of so many; the interval is Wilson's at 95 %."""

    hits: int
    of: int

    @property
    def share(self) -> float | None:
        """Return hits / of, None without cases."""
        return self.hits / self.of if self.of else None

    @property
    def interval(self) -> Interval | None:
        """Return the interval, None without cases."""
        return wilson(self.hits, self.of) if self.of else None

    def beyond(self, value: float) -> int:
        """Return -1 or 1 where the share surely lies below or above a value, else 0."""
        if self.of < LEAST:
            return 0
        sure = wilson(self.hits, self.of, level=SURE)
        return int(sure.low > value) - int(sure.high < value)


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterRow:
    """What a rater's verdicts look like."""

    user_id: str
    items: int
    verdicts: int  # one for each item, round and dimension
    per_hour: float | None  # items in an hour of the time they took
    median_s: float | None  # seconds for an item
    known: Share  # on gold and calibration items: as the known answer
    repeats: Share  # on items shown again: the same side as the first time
    first: Share  # of two responses, where one was chosen: the one shown first
    others: Share  # the side that most of the others took, where these took one
    flags: tuple[str, ...] = ()


def rater_rows(said: Verdicts) -> list[RaterRow]:
    """Return one row for each rater who judged anything, most verdicts first, with flags.

    A flag needs 20 cases and a 99 % interval, so that chance gives one to a rater in a hundred at
    most. Known answers and agreement with others are held against all the other raters together,
    the side shown first against one half, the pace against the median rater.
    """
    if not said.users:
        return []
    ends = np.cumsum(np.bincount(said.user, minlength=len(said.users)))[:-1]
    shares = np.split(np.argsort(said.user, kind="stable"), ends)
    rows = [_row(said.where(mine), name) for name, mine in zip(said.users, shares, strict=True)]
    hits, of = _with_others(said)
    rows = [
        replace(row, others=Share(hits=int(hits[at]), of=int(of[at])))
        for at, row in enumerate(rows)
    ]
    flagged = [replace(row, flags=_flags(row, rows)) for row in rows]
    return sorted(flagged, key=lambda row: (-row.verdicts, row.user_id))


@dataclass(frozen=True, kw_only=True, slots=True)
class Without:
    """What a dataset loses and gains without one rater; counts are of items times dimensions."""

    lost: int  # a response was ahead, now none is
    gained: int  # none was ahead, now one is
    flipped: int  # another response is ahead
    same: int  # one response is ahead, as before
    unjudged: int  # nobody else judged it; part of `lost` where a response was ahead


def without(said: Verdicts, user_id: str) -> Without:
    """Return what would change if a rater were left out, under the rule that makes pairs.

    A rater has one voice on an item: the mean of the last verdicts in either order of two
    responses. The side with more voices is ahead, unless ties are as many.
    """
    ours = said.where(said.counts & (said.side != REWRITTEN))
    _, unit = np.unique(_units(ours), return_inverse=True)
    gone = ours.user == (ours.users.index(user_id) if user_id in ours.users else -1)
    before, _ = _ahead(ours, unit, np.ones(len(ours), dtype=np.bool_))
    after, heard = _ahead(ours, unit, ~gone)
    return Without(
        lost=int(((before != TIE) & (after == TIE)).sum()),
        gained=int(((before == TIE) & (after != TIE)).sum()),
        flipped=int(((before != TIE) & (after != TIE) & (before != after)).sum()),
        same=int(((before != TIE) & (before == after)).sum()),
        unjudged=int((~heard).sum()),
    )


def _row(mine: Verdicts, name: str) -> RaterRow:
    once = mine.where(mine.dimension == (mine.dimension[0] if len(mine) else 0))
    measured = once.seconds[~np.isnan(once.seconds)]
    spent = float(measured.sum())
    return RaterRow(
        user_id=name,
        items=len(np.unique(mine.item)),
        verdicts=len(mine),
        per_hour=3600 * len(measured) / spent if spent else None,
        median_s=float(np.median(measured)) if len(measured) else None,
        known=_share(mine.right == 1, mine.right != -1),
        repeats=_repeats(mine),
        first=_share(mine.first == 1, mine.first != -1),
        others=Share(hits=0, of=0),
    )


def _repeats(mine: Verdicts) -> Share:
    """Count items shown again on which a rater took the same side as the first time."""
    said = mine.where(mine.side != REWRITTEN)
    unit = _units(said)
    before = dict(zip(unit[said.round == 0], said.side[said.round == 0], strict=True))
    again = zip(unit[said.round > 0], said.side[said.round > 0], strict=True)
    same = [before[at] == side for at, side in again if at in before]
    return Share(hits=int(sum(same)), of=len(same))


def _with_others(said: Verdicts) -> tuple[Ints, Ints]:
    """Return for each rater how often they took the others' side, and how often these had one."""
    said = said.where(said.side != REWRITTEN)
    last = last_of((_units(said), said.user), said)
    unit, side, user = _units(said)[last], said.side[last] + 1, said.user[last]
    width = int(side.max()) + 1 if len(side) else 1
    _, unit = np.unique(unit, return_inverse=True)
    counts = np.bincount(
        unit * width + side, minlength=(unit.max() + 1 if len(unit) else 0) * width
    )
    rest = counts.reshape(-1, width)[unit]
    rest[np.arange(len(rest)), side] -= 1
    most = rest.max(axis=1, initial=0)
    clear = (most > 0) & ((rest == most[:, None]).sum(axis=1) == 1)
    same = clear & (rest.argmax(axis=1) == side) if len(rest) else clear
    raters = len(said.users)
    return (
        np.bincount(user[same], minlength=raters),
        np.bincount(user[clear], minlength=raters),
    )


def _ahead(said: Verdicts, unit: Ints, kept: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the side that is ahead on each unit, or TIE, and whether anybody was heard on it."""
    units = int(unit.max()) + 1 if len(unit) else 0
    here = said.where(kept)
    unit, side = _voices(here, unit[kept])
    width = int(side.max()) + 2 if len(side) else 2
    counts = np.bincount(unit * width + side + 1, minlength=units * width).reshape(-1, width)
    ties, sides = counts[:, 0], counts[:, 1:]
    most = sides.max(axis=1, initial=0)
    clear = (most > ties) & ((sides == most[:, None]).sum(axis=1) == 1)
    return np.where(clear, sides.argmax(axis=1), TIE), counts.sum(axis=1) > 0


def _voices(said: Verdicts, unit: Ints) -> tuple[Ints, Ints]:
    """Return unit and side of every rater's one voice on a unit."""
    last = last_of((unit, said.user, said.swapped), said)
    unit, user, signed = unit[last], said.user[last], said.signed[last]
    begins = np.ones(len(last), dtype=np.bool_)
    begins[1:] = (np.diff(unit) != 0) | (np.diff(user) != 0)
    starts = np.flatnonzero(begins)
    total = np.add.reduceat(np.nan_to_num(signed), starts) if len(starts) else signed
    of_two = np.select([total > 0, total < 0], [0, 1], TIE)
    many = np.isnan(signed[starts])  # more than two responses: one order only, so one verdict
    return unit[starts], np.where(many, said.side[last][starts], of_two)


def _units(said: Verdicts) -> Ints:
    """Return a number for each item and dimension."""
    return said.item * max(1, len(said.dimensions)) + said.dimension


def _flags(row: RaterRow, rows: list[RaterRow]) -> tuple[str, ...]:
    """Return what to look at, in words."""
    rest = [other for other in rows if other.user_id != row.user_id]
    found = []
    if (known := _pooled(rest, lambda r: r.known)) and row.known.beyond(known) < 0:
        found.append("wrong on known answers")
    if (others := _pooled(rest, lambda r: r.others)) and row.others.beyond(others) < 0:
        found.append("agrees less with others than they do")
    if lean := row.first.beyond(0.5):
        found.append(f"leans to the {'first' if lean > 0 else 'second'} side")
    usual = [r.median_s for r in rest if r.median_s is not None and r.items >= LEAST]
    hasty = row.median_s is not None and usual and row.median_s < HURRY * float(np.median(usual))
    if hasty and row.items >= LEAST:
        found.append("much faster than the others")
    return tuple(found)


def _pooled(rows: list[RaterRow], of: Callable[[RaterRow], Share]) -> float | None:
    shares = [of(row) for row in rows]
    total = sum(share.of for share in shares)
    return sum(share.hits for share in shares) / total if total >= LEAST else None


def _share(hits: NDArray[np.bool_], of: NDArray[np.bool_]) -> Share:
    return Share(hits=int((hits & of).sum()), of=int(of.sum()))
