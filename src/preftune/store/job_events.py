"""The history of each job: appended to, never changed, each thing told once."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, insert, select, update

from preftune.store.job_errors import LostLeaseError, UnknownJobError
from preftune.store.job_schema import job_events, jobs
from preftune.store.pages import Page, page_of, place_of
from preftune.wire.job import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """One line of a job's history."""

    id: str  # ftevent-…
    seq: int  # 1, 2, … of the job, without a gap
    key: str
    level: str
    type: str
    message: str
    data: dict[str, Any] | None
    created_s: float


def tell(db: Connection, job_id: str, events: Sequence[Event], *, fence: int | None = None) -> int:
    """Append what was not told before, in the order given, and return how many lines that was.

    Args:
        db: a connection that writes.
        job_id: whose history.
        events: an event whose key the job has already is left out.
        fence: of the worker who tells; None for the server itself.

    Raises:
        LostLeaseError: the fence is no longer current; nothing was written.
        UnknownJobError: no such job.
    """
    lock = select(jobs.c.project_id, jobs.c.last_event, jobs.c.fence, jobs.c.lease_owner)
    job = db.execute(lock.where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if job is None:
        raise UnknownJobError(f"job {job_id}: is not there.")
    if fence is not None and (job.fence != fence or not job.lease_owner):
        raise LostLeaseError(f"job {job_id}: lease {fence} has ended. Leave the job.")
    keys = [event.key for event in events]
    here = and_(job_events.c.job_id == job_id, job_events.c.key.in_(keys))
    told = set(db.scalars(select(job_events.c.key).where(here)))
    new: dict[str, Event] = {}
    for event in events:
        if event.key not in told:
            new.setdefault(event.key, event)
    rows = [
        _row(event, job_id=job_id, project_id=job.project_id, seq=job.last_event + number)
        for number, event in enumerate(new.values(), 1)
    ]
    if rows:
        db.execute(insert(job_events), rows)
        last = update(jobs).where(jobs.c.id == job_id)
        db.execute(last.values(last_event=job.last_event + len(rows)))
    return len(rows)


def events_of(
    db: Connection, project_id: str, job_id: str, *, after: str | None = None, limit: int = 20
) -> Page[StoredEvent]:
    """Return the history of a job, the newest line first.

    Raises:
        UnknownCursorError: the job has no event `after`.
    """
    mine = and_(job_events.c.project_id == project_id, job_events.c.job_id == job_id)
    query = select(job_events).where(mine).order_by(job_events.c.seq.desc())
    if after is not None:
        place = place_of(db, job_events.c.seq, and_(mine, job_events.c.id == after), after)
        query = query.where(job_events.c.seq < place)
    return page_of(db, query, limit, _stored)


def events_since(
    db: Connection, project_id: str, job_id: str, *, seq: int = 0, limit: int = 1000
) -> list[StoredEvent]:
    """Return the lines behind number `seq`, the oldest first: what a page that watches lacks."""
    mine = and_(job_events.c.project_id == project_id, job_events.c.job_id == job_id)
    query = select(job_events).where(mine, job_events.c.seq > seq).order_by(job_events.c.seq)
    return [_stored(row) for row in db.execute(query.limit(limit)).all()]


def _row(event: Event, *, job_id: str, project_id: str, seq: int) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "project_id": project_id,
        "seq": seq,
        "id": f"ftevent-{secrets.token_hex(16)}",
        "key": event.key,
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": None if event.data is None else msgspec.json.encode(event.data).decode(),
        "created_s": event.created_s,
    }


def _stored(row: Row[Any]) -> StoredEvent:
    return StoredEvent(
        id=row.id,
        seq=row.seq,
        key=row.key,
        level=row.level,
        type=row.type,
        message=row.message,
        data=None if row.data is None else msgspec.json.decode(row.data),
        created_s=row.created_s,
    )
