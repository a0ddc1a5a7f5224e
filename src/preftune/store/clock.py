"""The clock of leases: no change of the date, by hand or for summer, moves it.

SQLite has one owning process on one machine, so its leases count the seconds since that machine
started. That count begins anew with each start; the name of the start is therefore kept with the
owner of a lease, and a lease from another start has ended. PostgreSQL, which several machines may
share, counts on its own clock.
"""

import os
import time
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Column, ColumnElement, Connection, func, not_, or_, select

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def lease_now(db: Connection) -> float:
    """Return the time by which leases are counted, in seconds; only differences mean anything."""
    if db.dialect.name == "sqlite":
        return time.monotonic()
    return float(db.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)


def owner_here(db: Connection, owner: str) -> str:
    """Return the owner's name as a lease keeps it, with the clock that the lease runs on."""
    return f"{owner}@{_clock(db)}"


def lease_ended(
    db: Connection, owner: "Column[str]", until: "Column[float]"
) -> ColumnElement[bool]:
    """Return the condition that a lease is held by nobody who is still heard of."""
    elsewhere = not_(owner.endswith(f"@{_clock(db)}", autoescape=True))
    return or_(until < lease_now(db), elsewhere)


def _clock(db: Connection) -> str:
    return _boot() if db.dialect.name == "sqlite" else "database"


@lru_cache(maxsize=1)
def _boot() -> str:
    """Return the name of this start of the machine; without one, a name of this process."""
    return _BOOT.read_text().strip() if _BOOT.exists() else f"process-{os.getpid()}"
