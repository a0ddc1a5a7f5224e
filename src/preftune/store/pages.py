"""Parts of long lists: what follows a row, and whether there is more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Connection, Row, Select, select

from preftune.errors import StoreError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """Rows in the order of a list, as many as were asked for."""

    data: tuple[T, ...]
    has_more: bool


class UnknownCursorError(StoreError):
    """A list was asked for from behind a row that is not in it."""


def page_of(
    db: Connection, rows: Select[Any], limit: int, read: Callable[[Row[Any]], T]
) -> Page[T]:
    """Return the first rows of an ordered query, each read by `read`."""
    found = db.execute(rows.limit(limit + 1)).all()
    return Page(data=tuple(read(row) for row in found[:limit]), has_more=len(found) > limit)


def place_of(db: Connection, wanted: "Column[Any]", mine: Any, row_id: str) -> Any:
    """Return the place of the row that a page follows; it stays, whatever is added in front.

    Args:
        db: a connection.
        wanted: the column that the list is ordered by.
        mine: condition that finds the row of this id in this list and no other.
        row_id: as the client gave it, for the message.

    Raises:
        UnknownCursorError: the list has no such row.
    """
    place = db.scalar(select(wanted).where(mine))
    if place is None:
        raise UnknownCursorError(
            f"after: {row_id} is not in this list. Give the id of a row that you were shown here."
        )
    return place
