"""What is costly to count, kept for a while: all verdicts of a project and what they show."""

import logging
import threading
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from preftune.store.agreement import LEVEL_OF, Agreement, agreement, leave_out
from preftune.store.database import Database
from preftune.store.events import now
from preftune.store.projects import members_of, project
from preftune.store.rater_table import RaterRow, rater_rows
from preftune.store.verdicts import Verdicts, read_verdicts

logger = logging.getLogger("preftune.errors")

FRESH_S = 5.0
PATIENCE = 20  # counting may take one twentieth of the time
QUICK_S = 1.0  # a page waits for a count that takes less
YOUNG_S = 10.0  # counts that are older say so
UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What the verdicts of one moment show."""

    at: str
    said: Verdicts  # excluded raters among them
    agreement: tuple[Agreement, ...]  # by dimension, without excluded raters
    raters: tuple[RaterRow, ...]
    began_s: float  # of the monotonic clock
    took_s: float

    @property
    def is_fresh(self) -> bool:
        """Return whether they may serve without a new count."""
        ended_s = self.began_s + self.took_s
        return time.monotonic() <= ended_s + max(FRESH_S, PATIENCE * self.took_s)

    @property
    def age(self) -> str:
        """Return how old they are, such as "3 minutes ago"; empty while that is nothing to tell."""
        return ago(time.monotonic() - self.began_s)


class _Kept:
    """The counts of one project, and the one thread that counts anew."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="counts")
        self.found: Counted | None = None
        self.counting: Future[None] | None = None
        self.changed_s = 0.0  # of the monotonic clock

    def holds(self) -> bool:
        """Return whether the counts are fresh, and nothing changed since."""
        found = self.found
        return found is not None and found.is_fresh and found.began_s > self.changed_s

    def renew(self, database: Database, project_id: str) -> None:
        """Count, in the thread; what goes wrong reaches those who wait, and the log."""
        found = None
        try:
            found = _count(database, project_id)
        except Exception:
            logger.exception("project %s: its verdicts could not be counted", project_id)
            raise
        finally:
            with self.lock:
                self.found, self.counting = found or self.found, None


_KEPT: WeakKeyDictionary[Database, defaultdict[str, _Kept]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def counted(database: Database, project_id: str, *, quick_s: float = QUICK_S) -> Counted:
    """Return what the verdicts of a project show, a few seconds old at most while it is small.

    Counting a million verdicts takes seconds. What was found then serves for twenty times as long,
    and on while one thread counts anew: nobody waits but for the first count.

    Args:
        database: the store.
        project_id: where.
        quick_s: a count that took less the last time is waited for.
    """
    kept = _of(database, project_id)
    while True:
        with kept.lock:
            found = kept.found
            if found is not None and kept.holds():
                return found
            if kept.counting is None:
                kept.counting = kept.thread.submit(kept.renew, database, project_id)
            counting = kept.counting
        if found is not None and found.took_s > quick_s:
            return found
        counting.result()


def count_anew(database: Database, project_id: str) -> None:
    """Let the counts of a project be made anew: its lead changed something and wants to see it."""
    kept = _of(database, project_id)
    with kept.lock:
        kept.changed_s = time.monotonic()


def ago(age_s: float) -> str:
    """Return an age in words, cut to one whole unit: 200 s is "3 minutes ago"; empty below 10 s."""
    if age_s < YOUNG_S:
        return ""
    unit, size_s = next(one for one in UNITS if age_s >= one[1])
    count = int(age_s // size_s)
    return f"{count} {unit}{'' if count == 1 else 's'} ago"


def _of(database: Database, project_id: str) -> _Kept:
    with _LOCK:
        return _KEPT.setdefault(database, defaultdict(_Kept))[project_id]


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
    return Counted(
        at=at,
        said=said,
        agreement=found,
        raters=raters,
        began_s=began_s,
        took_s=time.monotonic() - began_s,
    )
