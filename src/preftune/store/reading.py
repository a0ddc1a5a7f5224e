"""A store opened to be read, beside the process that owns it where there is one."""

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL

from preftune.errors import StoreError
from preftune.store.database import Database, database_url, shown
from preftune.store.migrate import newest, revision


class Readable(Protocol):
    """What can be read of a store."""

    @property
    def url(self) -> URL:
        """Where the database is."""

    @property
    def files(self) -> Path:
        """Where its datasets are."""

    def read(self) -> AbstractContextManager[Connection]:
        """Yield a connection that sees one moment of the store and can change nothing."""


@contextmanager
def reading(url: str | Path, *, files: Path | None = None) -> Iterator[Readable]:
    """Open a store to read it, also while a server has it open; the server goes on meanwhile.

    Args:
        url: as `Database` takes it.
        files: as `Database` takes it.

    Raises:
        StoreError: it is not there, cannot be opened, or its owner is of another version than this
            program.
    """
    found = database_url(url)
    file = Path(str(found.database)) if found.get_backend_name() == "sqlite" else None
    if file is not None and not file.is_file():
        raise StoreError(f"{file}: no store is there. Give the file that was labelled into.")
    if file is not None and _owned(file):
        yield _Beside(found, files or Path(f"{found.database}.files"))
    else:
        with Database(url, files=files) as database:
            yield database


class _Beside:
    """A SQLite store whose owner goes on writing: in WAL mode readers see whole commits only."""

    def __init__(self, url: URL, files: Path) -> None:
        self.url, self.files = url, files
        file = Path(str(url.database)).as_uri()
        only = URL.create("sqlite", database=file, query={"mode": "ro", "uri": "true"})
        self._engine = create_engine(only, hide_parameters=True)
        event.listen(self._engine, "connect", _begin_by_hand)
        event.listen(self._engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
        with self.read() as db:
            here, wanted = revision(db), newest()
        if here != wanted:
            raise StoreError(
                f"{shown(url)}: its tables are of version {here}, not {wanted}. "
                "Read it with the version of preftune that has it open."
            )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection


def _begin_by_hand(connection: Any, _record: Any) -> None:
    connection.isolation_level = None


def _owned(path: Path) -> bool:
    """Return whether a process has this file open to write."""
    lock = Path(f"{path}.lock")
    if not lock.exists():
        return False
    with lock.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
