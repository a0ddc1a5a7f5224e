"""Which item a rater sees next, and that no more raters hold it than are wanted."""

import hashlib
import time
from dataclasses import dataclass

from sqlalchemy import Connection, and_, bindparam, exists, func, or_, select

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.items import Content, Item, Use, as_item, item, order_shown
from preftune.store.labels import shown_key
from preftune.store.leases import free_expired, hold
from preftune.store.prepared import Prepared
from preftune.store.projects import Project, Workplace, guideline, project, workplace
from preftune.store.schema import events as log
from preftune.store.schema import items, judgments, leases

REPEAT_AFTER = 10  # verdicts in between at least, before an item is shown again
CANDIDATES = 64  # rows looked at for the random order

_HELD = Prepared(
    select(leases.c.item_id, leases.c.round)
    .where(leases.c.project_id == bindparam("project"), leases.c.user_id == bindparam("user"))
    .order_by(leases.c.until_s.desc())
    .limit(1)
)
_SEEN = exists().where(
    log.c.item_id == items.c.id,
    log.c.user_id == bindparam("user"),
    or_(log.c.type == "voted", log.c.type == "skipped", log.c.type == "flagged"),
)
_FRESH = (
    select(items)
    .where(items.c.project_id == bindparam("project"), items.c.use == bindparam("wanted_use"))
    .where(items.c.state != "withdrawn", ~_SEEN)
    .limit(bindparam("most"))
)
# Of the few gold and calibration items; the sum keeps the database from walking along all items
# in the order of their positions until it meets one.
_IN_ORDER = Prepared(_FRESH.order_by(items.c.position + 0))
_WANTING = _FRESH.where(items.c.state == "open", items.c.votes + items.c.held < items.c.wanted)
_LEAST_FIRST = Prepared(_WANTING.order_by(items.c.votes, items.c.position))
_TORN_FIRST = Prepared(
    _WANTING.order_by(items.c.disagreement.desc(), items.c.votes.desc(), items.c.position)
)
_MINE = and_(
    judgments.c.project_id == bindparam("project"),
    judgments.c.user_id == bindparam("user"),
    judgments.c.live,
    judgments.c.settles.is_(False),
)
_RECENT = (
    select(judgments.c.item_id)
    .where(_MINE)
    .order_by(judgments.c.seq.desc())
    .limit(bindparam("most"))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """An item before a rater. `use` is for the lead; the rater hears of calibration alone."""

    item_id: str
    round: int
    kind: str
    use: Use
    content: Content  # responses in the order shown
    shown: tuple[int, ...]  # their places as imported
    guideline: int  # version that holds


def next_task(
    db: Connection, project_id: str, user_id: str, *, now_s: float | None = None
) -> Task | None:
    """Return what a rater judges next, as `work_for` does."""
    return work_for(db, project_id, user_id, now_s=now_s)[0]


def work_for(
    db: Connection, project_id: str, user_id: str, *, now_s: float | None = None
) -> tuple[Task | None, Workplace]:
    """Return what a rater judges next, None when there is nothing left; writes that it was shown.

    The item they already have comes again, so that a reload changes nothing. Then come: all
    calibration items in their order; now and then, as a hash of rater and count decides, a gold
    item or one of their own earlier items; else what the project's strategy puts first.

    Args:
        db: a connection that writes.
        project_id: where.
        user_id: a rater or lead of the project.
        now_s: seconds since 1970; only tests give it.

    Raises:
        StoreError: the rater is no member, paused or excluded.
    """
    now_s = time.time() if now_s is None else now_s
    place = workplace(db, project_id, user_id)
    free_expired(db, project_id, now_s)
    if (held := _held(db, project_id, user_id)) is not None:
        return _show(db, place, user_id, *held), place
    chosen = _choose(db, place, user_id)
    if chosen is None:
        return None, place
    it, round = chosen
    hold(db, place.project, user_id, it.id, round=round, now_s=now_s)
    return _show(db, place, user_id, it, round), place


def task_again(db: Connection, project_id: str, user_id: str, item_id: str, round: int) -> Task:
    """Return an item that was shown to a rater before, as it was shown.

    Raises:
        StoreError: it never was.
    """
    if events.find(db, project_id, user_id, shown_key(item_id, round)) is None:
        raise StoreError(f"item {item_id}: was not shown to you. Fetch the next one.")
    where = project(db, project_id)
    current = guideline(db, project_id).version
    return _task(where, current, user_id, item(db, project_id, item_id), round)


def _show(db: Connection, place: Workplace, user_id: str, it: Item, round: int) -> Task:
    """Return an item as this rater sees it, and write that it was shown, the first time."""
    task = _task(place.project, place.guideline, user_id, it, round)
    where, key = place.project.id, shown_key(it.id, round)
    if events.find(db, where, user_id, key) is None:
        told = {"shown": list(task.shown), "round": round, "guideline": place.guideline}
        events.append(db, where, type="shown", user_id=user_id, data=told, item_id=it.id, key=key)
    return task


def _task(where: Project, guideline: int, user_id: str, it: Item, round: int) -> Task:
    shown = order_shown(
        where.secret,
        user_id=user_id,
        item_id=it.id,
        round=round,
        responses=len(it.content.responses),
    )
    responses = tuple(it.content.responses[at] for at in shown)
    return Task(
        item_id=it.id,
        round=round,
        kind=it.kind,
        use=it.use,
        content=Content(prompt=it.content.prompt, responses=responses),
        shown=shown,
        guideline=guideline,
    )


def _held(db: Connection, project_id: str, user_id: str) -> tuple[Item, int] | None:
    row = _HELD.first(db, project=project_id, user=user_id)
    return None if row is None else (item(db, project_id, row.item_id), row.round)


def _choose(db: Connection, place: Workplace, user_id: str) -> tuple[Item, int] | None:
    """Return the next item and its round for a rater who has none before them."""
    where = place.project
    if (first := _first(db, _IN_ORDER, where.id, user_id, "calibration")) is not None:
        return first, 0
    asked = where.settings
    if asked.gold_share + asked.repeat_share > 0:
        drawn = _share(where.secret, user_id, place.progress.done_by_me)
        if drawn < asked.gold_share:
            if (gold := _pick(db, _IN_ORDER, where, user_id, "gold")) is not None:
                return gold, 0
        elif drawn < asked.gold_share + asked.repeat_share:
            again = _repeat(db, where, user_id)
            if again is not None:
                return again
    found = _by_strategy(db, where, user_id)
    return None if found is None else (found, 0)


def _by_strategy(db: Connection, where: Project, user_id: str) -> Item | None:
    if where.settings.strategy == "disagreement":
        return _first(db, _TORN_FIRST, where.id, user_id, "label")
    if where.settings.strategy == "random":
        return _pick(db, _LEAST_FIRST, where, user_id, "label")
    return _first(db, _LEAST_FIRST, where.id, user_id, "label")


def _first(db: Connection, query: Prepared, project_id: str, user_id: str, use: Use) -> Item | None:
    row = query.first(db, project=project_id, user=user_id, wanted_use=use, most=1)
    return None if row is None else as_item(row)


def _pick(db: Connection, query: Prepared, where: Project, user_id: str, use: Use) -> Item | None:
    """Return one of the first rows, drawn by a hash of rater and item."""
    rows = query.all(db, project=where.id, user=user_id, wanted_use=use, most=CANDIDATES)
    if not rows:
        return None
    return as_item(min(rows, key=lambda row: _hash(where.secret, user_id, row.id)))


def _repeat(db: Connection, where: Project, user_id: str) -> tuple[Item, int] | None:
    """Return an item this rater judged some time ago, once, to see whether they agree with it."""
    me = {"project": where.id, "user": user_id}
    last = db.scalars(_RECENT, {**me, "most": REPEAT_AFTER}).all()
    query = (
        select(judgments.c.item_id)
        .join(items, items.c.id == judgments.c.item_id)
        .where(_MINE, items.c.use == "label", judgments.c.item_id.not_in(last))
        .group_by(judgments.c.item_id)
        .having(func.max(judgments.c.round) == 0)
        .order_by(func.min(judgments.c.seq))
        .limit(CANDIDATES)
    )
    rows = db.scalars(query, me).all()
    if not rows:
        return None
    return item(db, where.id, min(rows, key=lambda one: _hash(where.secret, user_id, one))), 1


def _hash(secret: str, *parts: object) -> bytes:
    return hashlib.sha256("\n".join(map(str, (secret, *parts))).encode()).digest()


def _share(secret: str, *parts: object) -> float:
    """Return a number in 0..1 that looks drawn, yet is always the same."""
    return int.from_bytes(_hash(secret, *parts)[:6]) / 2**48
