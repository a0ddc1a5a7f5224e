"""From a row of a frozen dataset back to all that it came from."""

from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, select

from preftune.errors import StoreError
from preftune.records import decode
from preftune.store import events
from preftune.store.adjudication import SaidOfItem, said_of
from preftune.store.database import Database
from preftune.store.items import Item, as_item
from preftune.store.overview import names_of
from preftune.store.schema import events as log
from preftune.store.schema import items
from preftune.store.snapshots import Snapshot, dataset_file, snapshots_of
from preftune.types import PreferencePair, RankedList

Row = PreferencePair | RankedList


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbered:
    """A row of a dataset and its line, from 1."""

    line: int
    row: Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """An event of an item: what happened, who did it, and its seal in the chain."""

    event: events.Event
    name: str
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Where a row comes from."""

    snapshot: Snapshot
    at: Numbered
    item: Item
    said: list[SaidOfItem]  # the verdicts in the row's dimension that held when it was frozen
    logged: list[Logged]  # all that had happened to the item by then


def snapshot(db: Connection, project_id: str, seal: str) -> Snapshot:
    """Return a dataset of a project.

    Raises:
        StoreError: the project has no such dataset.
    """
    for found in snapshots_of(db, project_id):
        if found.hash == seal:
            return found
    raise StoreError(f"dataset {seal[:12]}: is not there.")


def rows_of(database: Database, seal: str, *, after: int = 0, count: int = 50) -> list[Numbered]:
    """Return rows of a dataset, those behind line `after`.

    Raises:
        StoreError: its file is not there.
    """
    path = dataset_file(database, seal)
    try:
        with path.open("rb") as file:
            lines = list(islice(file, after, after + count))
    except FileNotFoundError as error:
        raise StoreError(
            f"dataset {seal[:12]}: its rows are not on this disk. Restore the backup that has them."
        ) from error
    return [_numbered(after + place, line) for place, line in enumerate(lines, 1)]


def line_of(database: Database, seal: str, row_id: str) -> int | None:
    """Return the line of the row with this id, None without one."""
    needle = row_id.encode()
    with dataset_file(database, seal).open("rb") as file:
        for number, line in enumerate(file, 1):
            if needle in line and _numbered(number, line).row.id == row_id:
                return number
    return None


def lineage(database: Database, project_id: str, seal: str, line: int) -> Lineage:
    """Return where a row of a dataset comes from.

    Raises:
        StoreError: no such dataset or row.
    """
    with database.read() as db:
        frozen = snapshot(db, project_id, seal)
        found = rows_of(database, seal, after=line - 1, count=1) if line > 0 else []
        if not found:
            raise StoreError(f"dataset {seal[:12]}: has no row {line}.")
        it = _item(db, project_id, found[0].row)
        end = frozen.manifest["events"]
        logged = [entry for entry in _logged(db, project_id, it.id) if entry.event.seq <= end]
        held = held_at([entry.event for entry in logged])
        said = [
            one
            for one in said_of(db, project_id, it.id)
            if one.seq in held and one.dimension == found[0].row.dimension
        ]
    return Lineage(snapshot=frozen, at=found[0], item=it, said=said, logged=logged)


def held_at(happened: list[events.Event]) -> set[int]:
    """Return the numbers of the events whose verdicts hold after all of these, of one item."""
    by_rater: dict[tuple[str, int], int] = {}
    settled: set[int] = set()
    for event in happened:
        whose = (event.user_id, event.data.get("round", 0))
        if event.type in ("voted", "revised"):
            by_rater[whose] = event.seq
        elif event.type == "undone":
            by_rater.pop(whose, None)
        elif event.type == "settled":
            settled = {event.seq}
    return settled or set(by_rater.values())


def _numbered(line: int, text: bytes) -> Numbered:
    row = decode(text)
    if not isinstance(row, Row):
        raise StoreError(f"dataset: line {line} is no pair and no ranked list. Freeze it again.")
    return Numbered(line=line, row=row)


def _item(db: Connection, project_id: str, row: Row) -> Item:
    name = row.provenance.comparison_id
    query = select(items).where(items.c.project_id == project_id, items.c.comparison_id == name)
    found = db.execute(query).one_or_none()
    if found is None:
        raise StoreError(f"row {row.id}: its comparison {name} is not in this project.")
    return as_item(found)


def _logged(db: Connection, project_id: str, item_id: str) -> list[Logged]:
    query = select(log.c.seq, log.c.hash).where(
        log.c.project_id == project_id, log.c.item_id == item_id
    )
    seals = {row.seq: row.hash for row in db.execute(query)}
    happened = events.of_item(db, project_id, item_id)
    names = names_of(db, [event.user_id for event in happened])
    return [
        Logged(event=event, name=names[event.user_id], hash=seals[event.seq]) for event in happened
    ]
