"""Datasets made beside the server: a large one in a process of its own, which goes last."""

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy.engine import URL

from preftune.errors import PreftuneError, StoreError
from preftune.store.database import Database
from preftune.store.projects import progress
from preftune.store.reading import reading
from preftune.store.snapshots import Made, Policy, Snapshot, freeze, keep, make_dataset

SMALL = 2000  # items that are frozen within the request: it takes less than starting a process
NICE = 10  # the server's own work goes first


@dataclass(frozen=True, kw_only=True, slots=True)
class Freezing:
    """A dataset that is being made, that was made, or that could not be."""

    name: str
    policy: Policy
    began_s: float  # since 1970
    done: int = 0  # items
    total: int = 0
    snapshot: Snapshot | None = None
    error: str = ""

    @property
    def runs(self) -> bool:
        """Return whether it is still being made."""
        return self.snapshot is None and not self.error


class Freezer:
    """Makes the datasets of one store, one at a time for each project."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, Freezing] = {}

    def start(
        self, database: Database, project_id: str, *, name: str, policy: Policy, by: str
    ) -> Freezing:
        """Begin to make a dataset; a small one is made when this returns.

        Raises:
            StoreError: one is being made already, or the project is not there.
            DataError: nothing was judged yet, where that is known at once.
        """
        with database.read() as db:
            total = progress(db, project_id, by).total
        began = Freezing(name=name, policy=policy, began_s=time.time(), total=total)
        if total <= SMALL:
            made = freeze(database, project_id, name=name, policy=policy, by=by)
            return self._note(project_id, replace(began, done=total, snapshot=made))
        with self._lock:
            if (before := self._last.get(project_id)) is not None and before.runs:
                raise StoreError(f"dataset {before.name!r}: is being made. Wait until it is done.")
            self._last[project_id] = began
        threading.Thread(
            target=self._watch, args=(database, project_id, began, by), daemon=True
        ).start()
        return began

    def last(self, project_id: str) -> Freezing | None:
        """Return how far the latest dataset of a project is, None since the start of the server."""
        with self._lock:
            return self._last.get(project_id)

    def _note(self, project_id: str, found: Freezing) -> Freezing:
        with self._lock:
            self._last[project_id] = found
        return found

    def _watch(self, database: Database, project_id: str, began: Freezing, by: str) -> None:
        """Hear what the process says until it has the dataset, and keep that."""
        ours, theirs = multiprocessing.Pipe(duplex=False)
        work = (theirs, _opened(database.url), database.files, project_id, began.policy)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=work, daemon=True)
        process.start()
        theirs.close()
        said: Made | tuple[int, int] | str = "dataset: its process ended. Freeze it again."
        try:
            while isinstance(heard := ours.recv(), tuple):
                done, total = heard
                self._note(project_id, replace(began, done=done, total=total))
            said = heard
        except EOFError:
            pass
        process.join()
        ended = replace(began, error=str(said))
        if isinstance(said, Made):
            made = said
            try:
                kept = database.write(lambda db: keep(db, project_id, made, name=began.name, by=by))
            except (PreftuneError, TimeoutError) as error:
                ended = replace(began, error=f"dataset: {error or 'the store was closed'}")
            else:
                ended = replace(began, done=began.total, snapshot=kept)
        self._note(project_id, ended)


def freezer(database: Database) -> Freezer:
    """Return the one that makes the datasets of this store."""
    with _LOCK:
        return _OF.setdefault(database, Freezer())


_OF: WeakKeyDictionary[Database, Freezer] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _work(pipe: Pipe, url: str, files: Path, project_id: str, policy: Policy) -> None:
    """Make a dataset in a process of its own: say how far it is, then what was made, or why not."""
    os.nice(NICE)
    try:
        with reading(url, files=files) as store:
            made = make_dataset(
                store, project_id, policy=policy, advance=lambda *far: pipe.send(far)
            )
    except PreftuneError as error:
        pipe.send(str(error))
    else:
        pipe.send(made)


def _opened(url: URL) -> str:
    """Return a URL as `reading` takes it; it goes through a pipe, where nobody can see it."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
