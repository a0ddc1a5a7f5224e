"""What a rater has done: their last verdicts, to be looked at and changed, and their pace."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, bindparam, select

from preftune.serving.rater_view import excerpt
from preftune.store.items import Verdict, item
from preftune.store.prepared import Prepared
from preftune.store.schema import judgments

LAST = 50  # verdicts that can be looked at and changed
RECENT = 20  # verdicts that the pace is taken from


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """A verdict of one's own, on responses as they were shown."""

    item_id: str
    round: int
    at: str
    excerpt: str  # of the prompt
    verdicts: dict[str, Verdict]  # by dimension
    why: dict[str, str]
    changeable: bool  # not where the right answer was shown afterwards


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a rater works: the median of the last twenty; none before the first."""

    seconds_per_item: float | None


# Built once: the page asks for the pace with every item.
_MINE = and_(
    judgments.c.project_id == bindparam("project"),
    judgments.c.user_id == bindparam("user"),
    judgments.c.live,
    judgments.c.settles.is_(False),
)
_LAST = (
    select(judgments.c.seq)
    .where(_MINE)
    .distinct()
    .order_by(judgments.c.seq.desc())
    .limit(bindparam("last"))
)
_PACE = Prepared(
    select(judgments.c.seq, judgments.c.seconds)
    .where(_MINE, judgments.c.seconds.is_not(None))
    .distinct()
    .order_by(judgments.c.seq.desc())
    .limit(RECENT)
)
_OF_ITEM = select(judgments).where(
    _MINE, judgments.c.item_id == bindparam("item"), judgments.c.round == bindparam("nth")
)
_OF_EVENTS = select(judgments).where(
    judgments.c.project_id == bindparam("project"),
    judgments.c.seq.in_(bindparam("seqs", expanding=True)),
)


def history(db: Connection, project_id: str, user_id: str, *, last: int = LAST) -> list[Earlier]:
    """Return a rater's last verdicts that stand, newest first."""
    mine = {"project": project_id, "user": user_id}
    seqs = db.scalars(_LAST, {**mine, "last": last}).all()
    by_seq: dict[int, list[Row[Any]]] = {seq: [] for seq in seqs}
    for row in db.execute(_OF_EVENTS, {"project": project_id, "seqs": seqs}):
        by_seq[row.seq].append(row)
    return [_earlier(db, group) for group in by_seq.values()]


def verdicts_of(
    db: Connection, project_id: str, user_id: str, item_id: str, round: int
) -> Earlier | None:
    """Return what a rater said of an item, None if nothing of it stands."""
    asked = {"project": project_id, "user": user_id, "item": item_id, "nth": round}
    rows = db.execute(_OF_ITEM, asked).all()
    return _earlier(db, rows) if rows else None


def pace(db: Connection, project_id: str, user_id: str) -> Pace:
    """Return the median time that a rater's last verdicts took."""
    rows = _PACE.all(db, project=project_id, user=user_id)
    took_s = [row.seconds for row in rows]
    return Pace(seconds_per_item=round(statistics.median(took_s), 1) if took_s else None)


def _earlier(db: Connection, rows: Sequence[Row[Any]]) -> Earlier:
    first = rows[0]
    it = item(db, first.project_id, first.item_id)
    return Earlier(
        item_id=first.item_id,
        round=first.round,
        at=first.at,
        excerpt=excerpt(it.content.prompt),
        verdicts={row.dimension: msgspec.json.decode(row.value) for row in rows},
        why={row.dimension: row.why for row in rows if row.why},
        changeable=it.use != "calibration",
    )
