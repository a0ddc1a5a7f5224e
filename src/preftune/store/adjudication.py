"""Items for the lead's eyes: lists of them, what was said of each, known answers, and flags."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import Connection, Integer, Select, and_, cast, func, or_, select, update

from preftune.errors import DataError, StoreError
from preftune.store import events
from preftune.store.items import Item, Use, Verdict, as_imported, as_item, check_verdict, item
from preftune.store.labels import is_right
from preftune.store.overview import names_of
from preftune.store.projects import project, recount_items
from preftune.store.schema import events as log
from preftune.store.schema import items, judgments

State = Literal["open", "done", "settled", "withdrawn"]
PAGE = 50
LONGEST_SEARCH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which items a list shows."""

    state: str = ""  # one of State; empty: any
    use: str = ""  # label, gold or calibration; empty: any
    search: str = ""  # words in prompt or responses, or an id
    after: int = 0  # place in the order of import


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidOfItem:
    """One verdict on an item, as imported."""

    user_id: str
    name: str
    dimension: str
    verdict: Verdict
    why: str
    guideline: int  # version
    seconds: float | None
    at: str
    seq: int
    round: int
    shown: tuple[int, ...]
    right: bool | None
    settles: bool
    live: bool  # False: revised, undone, or settled anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """A rater's word that something is wrong with an item."""

    seq: int
    item_id: str
    user_id: str
    name: str
    why: str
    at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An item with a known answer, and how raters did on it."""

    item: Item
    right: dict[str, int] = field(default_factory=dict)  # by dimension
    of: dict[str, int] = field(default_factory=dict)


def list_items(db: Connection, project_id: str, wanted: Wanted, *, count: int = PAGE) -> list[Item]:
    """Return items in the order of import.

    Raises:
        DataError: no such state or use, or too long a search.
    """
    _one_of("state", wanted.state, get_args(State))
    _one_of("use", wanted.use, get_args(Use))
    query = select(items).where(items.c.project_id == project_id, items.c.position > wanted.after)
    if wanted.state:
        query = query.where(items.c.state == wanted.state)
    if wanted.use:
        query = query.where(items.c.use == wanted.use)
    if words := wanted.search.strip():
        query = query.where(_matches(db, project_id, words))
    return _items(db, query.order_by(items.c.position).limit(count))


def disagreed(db: Connection, project_id: str, *, count: int = PAGE) -> list[Item]:
    """Return unsettled items on which raters took different sides, the most disagreed first."""
    query = select(items).where(
        items.c.project_id == project_id,
        items.c.use == "label",
        items.c.state.in_(("done", "open")),
        items.c.disagreement > 0,
    )
    order = (items.c.disagreement.desc(), items.c.votes.desc(), items.c.position)
    return _items(db, query.order_by(*order).limit(count))


def said_of(db: Connection, project_id: str, item_id: str) -> list[SaidOfItem]:
    """Return all that was ever said of an item, in order; sides counted as imported."""
    query = select(judgments).where(
        judgments.c.project_id == project_id, judgments.c.item_id == item_id
    )
    rows = db.execute(query.order_by(judgments.c.seq, judgments.c.dimension)).all()
    names = names_of(db, [row.user_id for row in rows])
    return [_said(row, names[row.user_id]) for row in rows]


def mark(
    db: Connection,
    project_id: str,
    item_id: str,
    *,
    use: Use,
    gold: dict[str, Verdict],
    why: str,
    by: str,
) -> None:
    """Make an item a gold or calibration item with a known answer, or one to be labelled again.

    What raters said of it before is held against the known answer too.

    Args:
        db: a connection that writes.
        project_id: where.
        item_id: which item.
        use: label takes the known answer away.
        gold: the right verdict in each dimension, on responses as imported; empty with `label`.
        why: told to the rater after a calibration item.
        by: who says so.

    Raises:
        StoreError: no such item.
        DataError: a dimension without an answer, or one that does not answer what is asked.
    """
    it = item(db, project_id, item_id)
    dimensions = project(db, project_id).settings.dimensions
    if use != "label" and (it.kind == "rewrite" or set(gold) != set(dimensions)):
        raise DataError(f"gold: {use} needs the right answer for {', '.join(dimensions)}.")
    for verdict in gold.values():
        check_verdict(verdict, kind=it.kind, responses=len(it.content.responses))
    known = {d: {**v, "why": why} for d, v in gold.items()} if use != "label" else {}
    here = and_(items.c.project_id == project_id, items.c.id == item_id)
    encoded = msgspec.json.encode(known).decode() if known else None
    db.execute(update(items).where(here).values(use=use, gold=encoded))
    recount_items(db, project_id)
    for row in db.execute(select(judgments).where(judgments.c.item_id == item_id)).all():
        right = is_right(msgspec.json.decode(row.value), known.get(row.dimension), _shown(row))
        db.execute(update(judgments).where(judgments.c.id == row.id).values(right=right))
    told = {"use": use, "gold": known}
    events.append(db, project_id, type="marked", user_id=by, data=told, item_id=item_id)


def known_items(db: Connection, project_id: str, *, count: int = PAGE * 4) -> list[Known]:
    """Return gold and calibration items with how often raters were right, in order of import."""
    query = select(items).where(
        items.c.project_id == project_id,
        items.c.use.in_(("gold", "calibration")),
        items.c.state != "withdrawn",
    )
    found = _items(db, query.order_by(items.c.position).limit(count))
    right = func.sum(cast(judgments.c.right, Integer))
    counts = (
        select(judgments.c.item_id, judgments.c.dimension, right, func.count())
        .where(judgments.c.item_id.in_([it.id for it in found]))
        .where(judgments.c.live, judgments.c.right.is_not(None))
        .where(judgments.c.settles.is_(False))
        .group_by(judgments.c.item_id, judgments.c.dimension)
    )
    by_item = {it.id: Known(item=it) for it in found}
    for item_id, dimension, hits, total in db.execute(counts):
        by_item[item_id].right[dimension] = int(hits)
        by_item[item_id].of[dimension] = int(total)
    return list(by_item.values())


def open_flags(db: Connection, project_id: str, *, after: int = 0) -> list[Flag]:
    """Return the flags that nobody has dealt with yet, the oldest first.

    Args:
        db: a connection.
        project_id: where.
        after: number of an event; only flags behind it. An item that is settled or withdrawn
            afterwards needs no more looking at.
    """
    mine = (log.c.project_id == project_id, log.c.seq > after)
    query = select(log).where(*mine, log.c.type.in_(("flagged", "flag_closed")))
    waiting: dict[int, Any] = {}
    # sorted here: asked for in order, SQLite reads the whole log to find these few
    for row in sorted(db.execute(query), key=attrgetter("seq")):
        if row.type == "flagged":
            waiting[row.seq] = row
        else:
            waiting.pop(msgspec.json.decode(row.data)["flag"], None)
    gone = _finished(db, [row.item_id for row in waiting.values()])
    names = names_of(db, [row.user_id for row in waiting.values()])
    return [
        Flag(
            seq=row.seq,
            item_id=row.item_id,
            user_id=row.user_id,
            name=names[row.user_id],
            why=msgspec.json.decode(row.data)["why"],
            at=row.at,
        )
        for row in waiting.values()
        if row.item_id not in gone
    ]


def close_flag(db: Connection, project_id: str, seq: int, *, by: str) -> None:
    """Say that a flag was dealt with.

    Raises:
        StoreError: no such flag.
    """
    query = select(log.c.type, log.c.item_id).where(
        log.c.project_id == project_id, log.c.seq == seq
    )
    row = db.execute(query).one_or_none()
    if row is None or row.type != "flagged":
        raise StoreError(f"flag {seq}: is not there.")
    told = {"flag": seq}
    events.append(db, project_id, type="flag_closed", user_id=by, data=told, item_id=row.item_id)


def _items(db: Connection, query: Select[Any]) -> list[Item]:
    """Return the items of a query in its order; the texts are read of these alone."""
    ids = db.scalars(query.with_only_columns(items.c.id)).all()
    rows = db.execute(select(items).where(items.c.id.in_(ids))).all()
    return sorted(map(as_item, rows), key=lambda it: ids.index(it.id))


def _matches(db: Connection, project_id: str, words: str) -> Any:
    """Return the condition of an item with this id, if there is one; else of these words."""
    if len(words) > LONGEST_SEARCH:
        raise DataError(f"search: over {LONGEST_SEARCH} characters. Give a few words.")
    named = or_(items.c.comparison_id == words, items.c.id == words)
    there = select(items.c.id).where(items.c.project_id == project_id, named).limit(1)
    if db.scalar(there) is not None:
        return named
    # the texts are kept as JSON, so words are looked for as JSON writes them
    inside = msgspec.json.encode(words).decode()[1:-1]
    return items.c.content.icontains(inside, autoescape=True)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value and value not in known:
        raise DataError(f"{name}: {value!r} is not one of {', '.join(known)}.")


def _said(row: Any, name: str) -> SaidOfItem:
    shown = _shown(row)
    return SaidOfItem(
        user_id=row.user_id,
        name=name,
        dimension=row.dimension,
        verdict=as_imported(msgspec.json.decode(row.value), shown),
        why=row.why,
        guideline=row.guideline,
        seconds=row.seconds,
        at=row.at,
        seq=row.seq,
        round=row.round,
        shown=shown,
        right=row.right,
        settles=row.settles,
        live=row.live,
    )


def _shown(row: Any) -> tuple[int, ...]:
    return tuple(int(at) for at in row.shown.split(","))


def _finished(db: Connection, item_ids: Sequence[str]) -> set[str]:
    over = items.c.state.in_(("settled", "withdrawn"))
    return set(db.scalars(select(items.c.id).where(items.c.id.in_(set(item_ids)), over)))
