"""Who has which item before them, and for how long."""

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update

from preftune.store.projects import Project
from preftune.store.schema import items, leases

_MINE = and_(leases.c.item_id == bindparam("item"), leases.c.user_id == bindparam("user"))
_LATE = and_(leases.c.project_id == bindparam("project"), leases.c.until_s < bindparam("now"))
_AGAIN = update(leases).where(_MINE).values(until_s=bindparam("until"), round=bindparam("nth"))
_HOLD = insert(leases)
_LET_GO = delete(leases).where(_MINE)
_EXPIRED = select(leases.c.item_id).where(_LATE)
_FREE = delete(leases).where(_LATE)
_HELD = (
    update(items)
    .where(items.c.id == bindparam("item"))
    .values(held=items.c.held + bindparam("more"))
)


def hold(
    db: Connection, where: Project, user_id: str, item_id: str, *, round: int, now_s: float
) -> None:
    """Put an item before a rater for the project's lease time."""
    until_s = now_s + 60 * where.settings.lease_minutes
    again = {"item": item_id, "user": user_id, "until": until_s, "nth": round}
    if db.execute(_AGAIN, again).rowcount:
        return
    row = {"item_id": item_id, "user_id": user_id, "project_id": where.id, "round": round}
    db.execute(_HOLD, {**row, "until_s": until_s})
    db.execute(_HELD, {"item": item_id, "more": 1})


def let_go(db: Connection, user_id: str, item_id: str) -> None:
    """Take an item from before a rater."""
    if db.execute(_LET_GO, {"item": item_id, "user": user_id}).rowcount:
        db.execute(_HELD, {"item": item_id, "more": -1})


def free_expired(db: Connection, project_id: str, now_s: float) -> None:
    """Take away the items that raters had for too long."""
    late = {"project": project_id, "now": now_s}
    gone = db.scalars(_EXPIRED, late).all()
    if gone:
        db.execute(_FREE, late)
        for item_id in gone:
            db.execute(_HELD, {"item": item_id, "more": -1})
