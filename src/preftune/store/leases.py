"""Who has which item before them, and for how long."""

from sqlalchemy import Connection, and_, delete, insert, select, update

from preftune.store.projects import Project
from preftune.store.schema import items, leases


def hold(
    db: Connection, where: Project, user_id: str, item_id: str, *, round: int, now_s: float
) -> None:
    """Put an item before a rater for the project's lease time."""
    until_s = now_s + 60 * where.settings.lease_minutes
    mine = and_(leases.c.item_id == item_id, leases.c.user_id == user_id)
    if db.execute(update(leases).where(mine).values(until_s=until_s, round=round)).rowcount:
        return
    row = {"item_id": item_id, "user_id": user_id, "project_id": where.id, "round": round}
    db.execute(insert(leases).values(**row, until_s=until_s))
    db.execute(update(items).where(items.c.id == item_id).values(held=items.c.held + 1))


def let_go(db: Connection, user_id: str, item_id: str) -> None:
    """Take an item from before a rater."""
    mine = and_(leases.c.item_id == item_id, leases.c.user_id == user_id)
    db.execute(delete(leases).where(mine))


def free_expired(db: Connection, project_id: str, now_s: float) -> None:
    """Take away the items that raters had for too long."""
    late = and_(leases.c.project_id == project_id, leases.c.until_s < now_s)
    gone = db.scalars(select(leases.c.item_id).where(late)).all()
    if gone:
        db.execute(delete(leases).where(late))
        for item_id in gone:
            db.execute(update(items).where(items.c.id == item_id).values(held=items.c.held - 1))
