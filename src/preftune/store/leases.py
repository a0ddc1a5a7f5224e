"""Who has which item before them, and for how long."""

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from preftune.store.prepared import Prepared
from preftune.store.projects import Project
from preftune.store.schema import items, leases

_MINE = and_(leases.c.item_id == bindparam("item"), leases.c.user_id == bindparam("user"))
_LATE = and_(leases.c.project_id == bindparam("project"), leases.c.until_s < bindparam("now"))
_AGAIN = update(leases).where(_MINE).values(until_s=bindparam("until"), round=bindparam("nth"))
_HOLD = Prepared(insert(leases).values({c.key: bindparam(f"the_{c.key}") for c in leases.c}))
_LET_GO = Prepared(delete(leases).where(_MINE))
_EXPIRED = Prepared(select(leases.c.item_id).where(_LATE))
_FREE = delete(leases).where(_LATE)
_HELD = Prepared(
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(held=items.c.held + bindparam("more"))
)


def hold(
    db: Connection, where: Project, user_id: str, item_id: str, *, round: int, now_s: float
) -> None:
    """Put an item before a rater, who does not have it, for the project's lease time."""
    until_s = now_s + 60 * where.settings.lease_minutes
    _HOLD.run(
        db,
        the_item_id=item_id,
        the_user_id=user_id,
        the_project_id=where.id,
        the_round=round,
        the_until_s=until_s,
    )
    _HELD.run(db, item=item_id, more=1)


def hold_again(
    db: Connection, where: Project, user_id: str, item_id: str, *, round: int, now_s: float
) -> None:
    """Put an item before a rater who may have it already."""
    until_s = now_s + 60 * where.settings.lease_minutes
    again = {"item": item_id, "user": user_id, "until": until_s, "nth": round}
    if not db.execute(_AGAIN, again).rowcount:
        hold(db, where, user_id, item_id, round=round, now_s=now_s)


def let_go(db: Connection, user_id: str, item_id: str) -> None:
    """Take an item from before a rater."""
    if _LET_GO.run(db, item=item_id, user=user_id):
        _HELD.run(db, item=item_id, more=-1)


def free_expired(db: Connection, project_id: str, now_s: float) -> None:
    """Take away the items that raters had for too long."""
    gone = _EXPIRED.all(db, project=project_id, now=now_s)
    if gone:
        db.execute(_FREE, {"project": project_id, "now": now_s})
        for row in gone:
            _HELD.run(db, item=row.item_id, more=-1)
