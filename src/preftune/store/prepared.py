"""Statements that run hundreds of times a second: SQLAlchemy writes their SQL, the driver runs it.

Running a short statement through SQLAlchemy costs several times what the database needs for it.
These are written out once per kind of database and handed to the driver as they are, on the
connection and in the transaction that SQLAlchemy holds.
"""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Connection, Dialect, Executable
from sqlalchemy.exc import DBAPIError

Row = Any  # a named tuple, fields named as the columns


class Prepared:
    """One statement; its `bindparam`s are given by name each time it runs.

    Defaults of columns that Python would fill in are not applied: an insert names every column.
    Lists (`in_`) have no fixed SQL and cannot be prepared.
    """

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self._written: dict[str, _Written] = {}

    def all(self, db: Connection, **values: Any) -> list[Row]:
        """Return all rows."""
        return self._of(db).rows(self._run(db, values).fetchall())

    def first(self, db: Connection, **values: Any) -> Row | None:
        """Return the first row, None without one."""
        row = self._run(db, values).fetchone()
        return None if row is None else self._of(db).rows([row])[0]

    def run(self, db: Connection, **values: Any) -> int:
        """Change something, and return how many rows it was."""
        return int(self._run(db, values).rowcount)

    def _run(self, db: Connection, values: dict[str, Any]) -> Any:
        written = self._of(db)
        driver: Any = db.connection.dbapi_connection
        try:
            return driver.execute(written.sql, written.bound(values))
        except written.error as error:
            raise DBAPIError.instance(
                written.sql, None, error, written.error, hide_parameters=True, dialect=db.dialect
            ) from error

    def _of(self, db: Connection) -> "_Written":
        written = self._written.get(db.dialect.name)
        if written is None:
            written = self._written[db.dialect.name] = _written(self.statement, db.dialect)
        return written


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A statement in the words of one kind of database."""

    sql: str
    fixed: dict[str, Any]  # values that are part of the statement
    order: tuple[str, ...] | None  # of the values, where the driver takes them by place
    row: Callable[[Any], Row]
    truths: tuple[int, ...]  # columns where the driver has 0 and 1 for False and True
    error: type[Exception]  # of the driver

    def bound(self, values: dict[str, Any]) -> Any:
        """Return the values as the driver takes them."""
        given = {**self.fixed, **values}
        return given if self.order is None else [given[name] for name in self.order]

    def rows(self, found: list[Any]) -> list[Row]:
        """Return rows of the driver with the names and types of their columns."""
        if not self.truths:
            return [self.row(row) for row in found]
        made = []
        for row in found:
            fields = list(row)
            for at in self.truths:
                fields[at] = None if fields[at] is None else bool(fields[at])
            made.append(self.row(fields))
        return made


def _written(statement: Any, dialect: Dialect) -> _Written:
    compiled = statement.compile(dialect=dialect)
    columns = list(statement.selected_columns) if statement.is_select else []
    numbers_for_truth = not dialect.supports_native_boolean
    named: Any = namedtuple
    driver: Any = dialect.dbapi
    return _Written(
        sql=str(compiled),
        fixed={name: value for name, value in compiled.params.items() if value is not None},
        order=tuple(compiled.positiontup) if compiled.positional else None,
        row=named("Row", [column.key for column in columns])._make,
        truths=tuple(
            at
            for at, column in enumerate(columns)
            if numbers_for_truth and isinstance(column.type, Boolean)
        ),
        error=driver.Error,
    )
