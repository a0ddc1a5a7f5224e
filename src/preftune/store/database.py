"""One database: many readers, one writer thread that commits in groups, migrations at the start."""

import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from preftune.errors import MissingExtraError, StoreError, StoreWriteError
from preftune.store.migrate import migrate

T = TypeVar("T")
GROUP = 32  # writes in one commit at most: the first of them should not wait long
GROUP_S = 0.005  # how long a group waits for more
CACHE_KIB = 1 << 16  # of pages that the writer keeps in memory; SQLite's own default is 2 MiB
WRITE_S = 60.0  # how long a caller waits for its commit


class Database:
    """A store that is open. Reads run side by side; writes go through one thread, in order.

    A write is on disk when `write` returns: SQLite in WAL mode with `synchronous=FULL`, PostgreSQL
    with its own default, `synchronous_commit=on`.
    """

    def __init__(self, url: str | Path, *, files: Path | None = None) -> None:
        """Open, and bring the tables up to date.

        Args:
            url: a SQLAlchemy URL (`postgresql://…`), or the path of a SQLite file.
            files: folder of what is kept beside the database, such as datasets; by default
                beside a SQLite file, else under `$XDG_DATA_HOME/preftune` (`~/.local/share`).

        Raises:
            StoreError: the URL is wrong, another process owns the file, or it cannot be opened.
            MissingExtraError: PostgreSQL without its driver.
        """
        self.url = database_url(url)
        self.files = files or _files(self.url)
        self._owner = _own(self.url)
        try:
            self._writing, self._reading = _engines(self.url)
            migrate(self._writing)
        except (OperationalError, sqlite3.Error) as error:
            raise StoreError(
                f"{shown(self.url)}: cannot be opened: {_first_line(error)}"
            ) from error
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_groups, name="store-writer", daemon=True)
        self._thread.start()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one moment of the store and can change nothing."""
        with self._reading.connect() as connection:
            yield connection

    def submit(self, work: Callable[[Connection], T]) -> "Future[T]":
        """Queue a write; the future has its result once it is committed.

        A write that raises is rolled back alone; the others of its group stand.
        """
        job = _Job(work)
        self._jobs.put(job)
        return job.future

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run a write and return its result once it is committed."""
        return self.submit(work).result(timeout=WRITE_S)

    def close(self) -> None:
        """Finish the writes that are queued, and let go of the store."""
        self._jobs.put(None)
        self._thread.join()
        self._reading.dispose()
        self._writing.dispose()
        if self._owner is not None:
            self._owner.close()

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_groups(self) -> None:
        open_ = True
        while open_:
            job = self._jobs.get()
            group: list[_Job[Any]] = []
            began = time.monotonic()
            while job is not None:
                group.append(job)
                left = GROUP_S - (time.monotonic() - began)
                if len(group) >= GROUP or left <= 0:
                    break
                try:
                    job = self._jobs.get(timeout=left)
                except queue.Empty:
                    break
            open_ = job is not None
            if group:
                self._commit(group)

    def _commit(self, group: "list[_Job[Any]]") -> None:
        try:
            with self._writing.begin() as connection:
                for job in group:
                    job.run(connection)
        except Exception as error:
            refused = _refused(self.url, error)
            for job in group:
                if not job.future.done():
                    job.future.set_exception(refused)
            return
        for job in group:
            job.finish()


class _Job(Generic[T]):
    """One write of a group; its future hears of it after the commit of the whole group."""

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.future: Future[T] = Future()
        self.finish: Callable[[], None] = lambda: None

    def run(self, connection: Connection) -> None:
        """Do the write inside a savepoint of its own, so that it can fail alone.

        A database that cannot go on (disk full, connection lost) fails the whole group.
        """
        if not self.future.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        # SQLAlchemy's own savepoints are compiled anew each time, at the cost of ten statements.
        driver: Any = connection.connection.dbapi_connection
        driver.execute("SAVEPOINT job")
        try:
            result = self.work(connection)
        except OperationalError:
            raise
        except Exception as error:
            why = error
            driver.execute("ROLLBACK TO SAVEPOINT job")
            self.finish = lambda: self.future.set_exception(why)
        else:
            self.finish = lambda: self.future.set_result(result)
        driver.execute("RELEASE SAVEPOINT job")


def database_url(url: str | Path) -> URL:
    """Return a SQLAlchemy URL; a plain path is a SQLite file.

    Raises:
        StoreError: neither SQLite nor PostgreSQL.
    """
    text = str(url)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().resolve()))
    try:
        found = make_url(text)
    except ArgumentError as error:
        raise StoreError(
            "store: not a database URL. Use sqlite:///path or postgresql://user@host/name."
        ) from error
    if found.get_backend_name() == "postgresql":
        return found.set(drivername="postgresql+psycopg")
    if found.get_backend_name() != "sqlite" or not found.database:
        raise StoreError(
            f"{shown(found)}: not supported. Use a SQLite file or postgresql://user@host/name."
        )
    return found


def shown(url: URL) -> str:
    """Return a URL as it may be shown: without its password; of SQLite, the file alone."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string()


def _files(url: URL) -> Path:
    if url.get_backend_name() == "sqlite":
        return Path(f"{url.database}.files")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "preftune" / f"{url.host or 'local'}-{url.database}"


def _engines(url: URL) -> tuple[Engine, Engine]:
    """Return the engine that writes, of one connection, and the one that reads."""
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        writing = create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
        reading = create_engine(url, pool_size=40, max_overflow=0, hide_parameters=True)
        event.listen(writing, "connect", _write_pragmas)
        event.listen(writing, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(reading, "connect", _read_pragmas)
        event.listen(reading, "begin", lambda c: c.exec_driver_sql("BEGIN"))
        return writing, reading
    try:
        shared: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
        writing = create_engine(url, pool_size=1, max_overflow=0, **shared)
        reading = create_engine(url, pool_size=40, max_overflow=0, **shared)
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    return writing, reading.execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    )


def _write_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    kept = f"cache_size=-{CACHE_KIB}"
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "mmap_size=0", kept):
        connection.execute(f"PRAGMA {pragma}")


def _read_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in ("query_only=ON", "wal_autocheckpoint=0", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")


def _own(url: URL) -> IO[bytes] | None:
    """Lock a SQLite file for this process; the lock goes when the process does.

    Raises:
        StoreError: another process has it.
    """
    if url.get_backend_name() != "sqlite":
        return None
    file = Path(f"{url.database}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = file.open("a+b")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().decode() or "another process"
        handle.close()
        raise StoreError(
            f"{url.database}: {owner} has it open. Stop that process, or use PostgreSQL."
        ) from error
    handle.truncate(0)
    handle.write(f"process {os.getpid()}".encode())
    handle.flush()
    return handle


def _refused(url: URL, error: Exception) -> StoreWriteError:
    return StoreWriteError(
        f"{shown(url)}: nothing was written: {_first_line(error)}. Make room or repair it; "
        "the next write tries again."
    )


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(cause).strip().partition("\n")[0]
