"""The log of what happened in a project: appended to, never changed, sealed by chained hashes."""

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from preftune.errors import StoreError
from preftune.store.prepared import Prepared
from preftune.store.schema import events, projects

MANY = 2000  # rows fetched at a time

_LAST = select(projects.c.last_seq, projects.c.last_hash).where(
    projects.c.id == bindparam("project")
)
_LAST_LOCKED = Prepared(_LAST.with_for_update())
_MOVE = Prepared(
    update(projects)
    .where(projects.c.id == bindparam("project"))
    .values(last_seq=bindparam("seq"), last_hash=bindparam("seal"))
)
_APPEND = Prepared(insert(events).values({c.key: bindparam(f"the_{c.key}") for c in events.c}))
_UNDER = Prepared(
    select(events).where(
        events.c.project_id == bindparam("project"),
        events.c.user_id == bindparam("user"),
        or_(events.c.key == bindparam("key_1"), events.c.key == bindparam("key_2")),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that somebody did."""

    project_id: str
    seq: int
    type: str
    user_id: str
    item_id: str | None
    key: str | None
    data: dict[str, Any]
    at: str


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def append(
    db: Connection,
    project_id: str,
    *,
    type: str,
    user_id: str,
    data: dict[str, Any],
    item_id: str | None = None,
    key: str | None = None,
) -> Event:
    """Write one event behind the last of its project and return it.

    Args:
        db: a connection that writes; the event stands when its transaction does.
        project_id: whose log.
        type: shown, voted, revised, undone, skipped, flagged, settled, …
        user_id: who did it.
        data: what was done.
        item_id: on which item.
        key: the client's own name for the request; a second event under it is refused.

    Raises:
        StoreError: no such project.
    """
    last = _LAST_LOCKED.first(db, project=project_id)
    if last is None:
        raise StoreError(f"project {project_id}: is not there.")
    row = {
        "project_id": project_id,
        "seq": last.last_seq + 1,
        "type": type,
        "user_id": user_id,
        "item_id": item_id,
        "key": key,
        "data": msgspec.json.encode(data, order="sorted").decode(),
        "at": now(),
    }
    seal = _seal(last.last_hash, row)
    _APPEND.run(db, the_hash=seal, **{f"the_{name}": value for name, value in row.items()})
    _MOVE.run(db, project=project_id, seq=row["seq"], seal=seal)
    return Event(**{**row, "data": data})


def find(db: Connection, project_id: str, user_id: str, key: str) -> Event | None:
    """Return the event that a person's request with this key led to, if it came before."""
    return find_two(db, project_id, user_id, (key, key))[0]


def find_two(
    db: Connection, project_id: str, user_id: str, keys: tuple[str, str]
) -> tuple[Event | None, Event | None]:
    """Return the events that a person's requests with these keys led to."""
    rows = _UNDER.all(db, project=project_id, user=user_id, key_1=keys[0], key_2=keys[1])
    found = {row.key: _event(row) for row in rows}
    return found.get(keys[0]), found.get(keys[1])


def log(db: Connection, project_id: str, *, after: int = 0) -> Iterator[Event]:
    """Yield the events of a project in order, those behind number `after`."""
    for row in _rows(db, project_id, after):
        yield _event(row)


def last(db: Connection, project_id: str, count: int) -> list[Event]:
    """Return the last events of a project, the newest first."""
    query = select(events).where(events.c.project_id == project_id)
    rows = db.execute(query.order_by(events.c.seq.desc()).limit(count)).all()
    return [_event(row) for row in rows]


def of_item(db: Connection, project_id: str, item_id: str) -> list[Event]:
    """Return all that happened to an item, in order."""
    query = select(events).where(events.c.project_id == project_id, events.c.item_id == item_id)
    return [_event(row) for row in db.execute(query.order_by(events.c.seq)).all()]


def verify(db: Connection, project_id: str) -> int:
    """Return how many events a project has, after checking that none was changed or taken out.

    Raises:
        StoreError: names the first event that does not fit the one before it.
    """
    seal, seq = "", 0
    for row in _rows(db, project_id, 0):
        seq += 1
        fields = row._asdict()
        told = fields.pop("hash")
        seal = _seal(seal, fields)
        if row.seq != seq or told != seal:
            raise StoreError(
                f"project {project_id}: event {seq} was changed or taken out. "
                "Restore the last backup that verifies."
            )
    last = db.execute(_LAST, {"project": project_id}).one()
    if (last.last_seq, last.last_hash) != (seq, seal):
        raise StoreError(
            f"project {project_id}: its log ends at event {seq}, not {last.last_seq}. "
            "Restore the last backup that verifies."
        )
    return seq


def _rows(db: Connection, project_id: str, after: int) -> Iterator[Row[Any]]:
    query = (
        select(events)
        .where(events.c.project_id == project_id, events.c.seq > after)
        .order_by(events.c.seq)
    )
    yield from db.execute(query.execution_options(yield_per=MANY))


def _seal(before: str, row: dict[str, Any]) -> str:
    text = before.encode() + b"\n" + msgspec.json.encode(row, order="sorted")
    return hashlib.sha256(text).hexdigest()


def _event(row: Row[Any]) -> Event:
    fields = row._asdict()
    fields.pop("hash")
    fields["data"] = msgspec.json.decode(fields["data"])
    return Event(**fields)
