"""What is costly to count, kept for a few seconds: all verdicts of a project and what they show."""

import threading
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from preftune.store.agreement import LEVEL_OF, Agreement, agreement, leave_out
from preftune.store.database import Database
from preftune.store.events import now
from preftune.store.projects import members_of, project
from preftune.store.rater_table import RaterRow, rater_rows
from preftune.store.verdicts import Verdicts, read_verdicts

FRESH_S = 5.0
PATIENCE = 20  # counting may take one twentieth of the time


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What the verdicts of one moment show."""

    at: str
    said: Verdicts  # excluded raters among them
    agreement: tuple[Agreement, ...]  # by dimension, without excluded raters
    raters: tuple[RaterRow, ...]
    stale_s: float  # of the monotonic clock


class _Kept:
    """The counts of one store's projects, and a lock so that each is counted once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counted: dict[str, Counted] = {}


_KEPT: WeakKeyDictionary[Database, _Kept] = WeakKeyDictionary()
_LOCK = threading.Lock()


def counted(database: Database, project_id: str) -> Counted:
    """Return what the verdicts of a project show, a few seconds old at most while it is small.

    Counting a million verdicts takes seconds; what was found then serves for twenty times as long.
    """
    kept = _of(database)
    with kept.lock:
        found = kept.counted.get(project_id)
        if found is None or time.monotonic() > found.stale_s:
            found = kept.counted[project_id] = _count(database, project_id)
        return found


def count_anew(database: Database, project_id: str) -> None:
    """Forget the counts of a project: something changed that its lead wants to see at once."""
    kept = _of(database)
    with kept.lock:
        kept.counted.pop(project_id, None)


def _of(database: Database) -> _Kept:
    with _LOCK:
        return _KEPT.setdefault(database, _Kept())


def _count(database: Database, project_id: str) -> Counted:
    began_s = time.monotonic()
    at = now()
    with database.read() as db:
        settings = project(db, project_id).settings
        excluded = {m.user_id for m in members_of(db, project_id) if m.state == "excluded"}
        said = read_verdicts(db, project_id)
    level = LEVEL_OF.get(settings.kind, "nominal")
    counting = leave_out(said, excluded)
    found = tuple(agreement(counting, d, level=level) for d in settings.dimensions)
    raters = tuple(rater_rows(said))
    took_s = time.monotonic() - began_s
    return Counted(
        at=at,
        said=said,
        agreement=found,
        raters=raters,
        stale_s=time.monotonic() + max(FRESH_S, PATIENCE * took_s),
    )
