"""What the lead sees of a project at a glance: how far it is, how fast, and who is at work."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from preftune.store import events
from preftune.store.projects import MemberState, Role
from preftune.store.schema import events as log
from preftune.store.schema import items, leases, members, projects, users

HOURS = 24
VOTING = ("voted", "revised")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemCounts:
    """How many items there are, by what became of them; withdrawn ones are in no other count."""

    open: int = 0  # to be labelled, verdicts wanting
    done: int = 0  # as many verdicts as wanted
    settled: int = 0  # by a lead
    disagreed: int = 0  # of open and done: raters took different sides
    gold: int = 0
    calibration: int = 0
    withdrawn: int = 0

    @property
    def labelled(self) -> int:
        """Return how many items need nothing more."""
        return self.done + self.settled

    @property
    def total(self) -> int:
        """Return how many items are to be labelled or were."""
        return self.open + self.done + self.settled


@dataclass(frozen=True, kw_only=True, slots=True)
class Hour:
    """How many votes came in an hour of the clock (UTC)."""

    begins: str  # 2026-11-21T09
    votes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AtWork:
    """A person with an item before them, or who voted within the hours looked at."""

    user_id: str
    name: str
    votes: int  # in these hours
    last_at: str  # of the last vote; empty: none in these hours
    has_item: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """The last hours of a project."""

    hours: tuple[Hour, ...]  # the oldest first; the last is the one under way
    at_work: tuple[AtWork, ...]  # the latest vote first


@dataclass(frozen=True, kw_only=True, slots=True)
class Colleague:
    """A member of a project, with a name."""

    user_id: str
    name: str
    email: str
    role: Role
    state: MemberState


def item_counts(db: Connection, project_id: str) -> ItemCounts:
    """Return how far a project is."""
    split = items.c.disagreement > 0
    query = (
        select(items.c.use, items.c.state, split.label("split"), func.count())
        .where(items.c.project_id == project_id)
        .group_by(items.c.use, items.c.state, split)
    )
    found: Counter[str] = Counter()
    for use, state, disagreed, count in db.execute(query):
        name = use if use != "label" and state != "withdrawn" else state
        found[name] += count
        if disagreed and name in ("open", "done"):
            found["disagreed"] += count
    return ItemCounts(**found)


def recent(db: Connection, project_id: str, *, now: dt.datetime, hours: int = HOURS) -> Recent:
    """Return the votes of the last hours, and who is at work.

    The log is ordered in time, so the place to start at is found by halving; only the events of
    these hours are read, however long the log is.

    Args:
        db: a connection.
        project_id: where.
        now: in UTC.
        hours: full hours of the clock, the one under way among them.
    """
    begins = now.replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=hours - 1)
    after = _seq_before(db, project_id, begins.isoformat(timespec="milliseconds")[:23] + "Z")
    hour = func.substr(log.c.at, 1, 13)
    query = (
        select(log.c.user_id, hour, func.count(), func.max(log.c.at))
        .where(log.c.project_id == project_id, log.c.seq > after, log.c.type.in_(VOTING))
        .group_by(hour, log.c.user_id)  # user first, and SQLite reads the whole log in that order
    )
    per_hour: Counter[str] = Counter()
    per_user: Counter[str] = Counter()
    last_at: dict[str, str] = {}
    for user_id, at, count, last in db.execute(query):
        per_hour[at] += count
        per_user[user_id] += count
        last_at[user_id] = max(last, last_at.get(user_id, ""))
    names = [(begins + dt.timedelta(hours=h)).strftime("%Y-%m-%dT%H") for h in range(hours)]
    return Recent(
        hours=tuple(Hour(begins=name, votes=per_hour[name]) for name in names),
        at_work=tuple(_at_work(db, project_id, per_user, last_at, now.timestamp())),
    )


def colleagues(db: Connection, project_id: str) -> list[Colleague]:
    """Return everybody in a project, by name."""
    query = (
        select(members.c.user_id, users.c.name, users.c.email, members.c.role, members.c.state)
        .join(users, users.c.id == members.c.user_id)
        .where(members.c.project_id == project_id)
        .order_by(users.c.name, users.c.id)
    )
    return [Colleague(**row._asdict()) for row in db.execute(query)]


def names_of(db: Connection, user_ids: Sequence[str]) -> dict[str, str]:
    """Return the names of people; somebody without an account keeps the id."""
    found = dict.fromkeys(user_ids)
    rows = db.execute(select(users.c.id, users.c.name).where(users.c.id.in_(list(found)))).all()
    return {**{name: name for name in found}, **{row.id: row.name for row in rows}}


def last_seq(db: Connection, project_id: str) -> int:
    """Return how many events a project has."""
    return db.scalar(select(projects.c.last_seq).where(projects.c.id == project_id)) or 0


def events_page(
    db: Connection, project_id: str, *, before: int | None, count: int
) -> list[events.Event]:
    """Return the events of a project before a number, the newest first; None: the last ones."""
    end = last_seq(db, project_id) if before is None else before - 1
    found = []
    for event in events.log(db, project_id, after=max(0, end - count)):
        if event.seq > end:
            break
        found.append(event)
    return found[::-1]


def _seq_before(db: Connection, project_id: str, at: str) -> int:
    """Return the number of the last event before a time, 0 without one."""
    low, high = 0, last_seq(db, project_id)
    while low < high:
        middle = (low + high + 1) // 2
        when = select(log.c.at).where(log.c.project_id == project_id, log.c.seq == middle)
        if (db.scalar(when) or "") < at:
            low = middle
        else:
            high = middle - 1
    return low


def _at_work(
    db: Connection, project_id: str, votes: Counter[str], last_at: dict[str, str], now_s: float
) -> list[AtWork]:
    query = select(leases.c.user_id).where(
        leases.c.project_id == project_id, leases.c.until_s >= now_s
    )
    holding = set(db.scalars(query))
    names = names_of(db, sorted(holding | votes.keys()))
    found = [
        AtWork(
            user_id=user_id,
            name=name,
            votes=votes[user_id],
            last_at=last_at.get(user_id, ""),
            has_item=user_id in holding,
        )
        for user_id, name in names.items()
    ]
    return sorted(found, key=lambda at: at.last_at, reverse=True)
