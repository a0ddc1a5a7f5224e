"""A batch of pieces of work that several workers share, such as judgments to ask for.

Each piece is leased to one worker at a time; a piece whose worker is not heard of is leased again.
Work may so be done twice, but a result is stored once: the first one stands.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from preftune.store.clock import lease_ended, lease_now, owner_here
from preftune.store.job_errors import LostLeaseError
from preftune.store.job_schema import work_items

MANY = 2000  # rows at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkItem:
    """A piece of work that a worker has."""

    batch: str
    key: str
    position: int
    content: str
    fence: int
    attempts: int  # leases so far, this one included


def add_work(db: Connection, batch: str, pieces: Mapping[str, str]) -> int:
    """Add pieces by key, in their order; return how many of them were not there before.

    Args:
        db: a connection that writes.
        batch: name of the batch.
        pieces: content by key.
    """
    mine = work_items.c.batch == batch
    there = set(db.scalars(select(work_items.c.key).where(mine)))
    new = [key for key in pieces if key not in there]
    fresh = {"batch": batch, "fence": 0, "lease_owner": "", "lease_until": 0.0, "attempts": 0}
    for first in range(0, len(new), MANY):
        rows = [
            {**fresh, "key": key, "position": len(there) + number, "content": pieces[key]}
            for number, key in enumerate(new[first : first + MANY], first)
        ]
        db.execute(insert(work_items), rows)
    return len(new)


def take_work(
    db: Connection, batch: str, *, owner: str, lease_s: float, count: int = 1
) -> list[WorkItem]:
    """Lease the first pieces that nobody has; an empty list: none is left to take now."""
    ended = lease_ended(db, work_items.c.lease_owner, work_items.c.lease_until)
    free = and_(work_items.c.batch == batch, work_items.c.result.is_(None), ended)
    first = select(work_items.c.key).where(free).order_by(work_items.c.position).limit(count)
    # Two statements: in one, PostgreSQL may run the inner one again, and lock other pieces.
    keys = db.scalars(first.with_for_update(skip_locked=True)).all()
    taken = (
        update(work_items)
        .where(work_items.c.batch == batch, work_items.c.key.in_(keys))
        .values(
            fence=work_items.c.fence + 1,
            attempts=work_items.c.attempts + 1,
            lease_owner=owner_here(db, owner),
            lease_until=lease_now(db) + lease_s,
        )
        .returning(
            work_items.c.batch,
            work_items.c.key,
            work_items.c.position,
            work_items.c.content,
            work_items.c.fence,
            work_items.c.attempts,
        )
    )
    found = [WorkItem(**row._asdict()) for row in db.execute(taken).all()]
    return sorted(found, key=lambda item: item.position)


def keep_work(db: Connection, item: WorkItem, *, lease_s: float) -> None:
    """Extend the lease of a piece.

    Raises:
        LostLeaseError: it is done, or somebody else has it: spend nothing more on it.
    """
    mine = and_(
        _is(item.batch, item.key),
        work_items.c.fence == item.fence,
        work_items.c.lease_owner != "",
        work_items.c.result.is_(None),
    )
    longer = update(work_items).where(mine).values(lease_until=lease_now(db) + lease_s)
    if not db.execute(longer).rowcount:
        raise LostLeaseError(f"{item.batch}/{item.key}: lease {item.fence} has ended.")


def put_result(db: Connection, item: WorkItem, result: str) -> bool:
    """Store the result of a piece, and return whether it is the one that stands.

    A worker that was too slow is heard all the same where nobody was faster: the work is paid for.
    """
    first = and_(_is(item.batch, item.key), work_items.c.result.is_(None))
    done = update(work_items).where(first).values(result=result, lease_owner="")
    return bool(db.execute(done).rowcount)


def give_back(db: Connection, batch: str, *, owner: str) -> int:
    """Let others take at once what a worker has that is gone; return how many pieces."""
    its = and_(work_items.c.batch == batch, work_items.c.lease_owner == owner_here(db, owner))
    free = update(work_items).where(its).values(lease_owner="", lease_until=0.0)
    return db.execute(free).rowcount


def work_left(db: Connection, batch: str) -> int:
    """Return how many pieces of a batch have no result."""
    left = and_(work_items.c.batch == batch, work_items.c.result.is_(None))
    return db.scalar(select(func.count()).select_from(work_items).where(left)) or 0


def results_of(db: Connection, batch: str) -> Iterator[tuple[str, str | None]]:
    """Yield key and result of each piece, in order; None: not done."""
    query = select(work_items.c.key, work_items.c.result).where(work_items.c.batch == batch)
    ordered = query.order_by(work_items.c.position)
    for row in db.execute(ordered.execution_options(yield_per=MANY)):
        yield row.key, row.result


def _is(batch: str, key: str) -> ColumnElement[bool]:
    return and_(work_items.c.batch == batch, work_items.c.key == key)
