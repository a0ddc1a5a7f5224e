"""R16: an upgrade of the tables is killed at random points; run again, it completes, all as it was.

The old store has the first version of the tables. `preftune store verify` opens it, which upgrades
it; the process is killed somewhere on the way.
"""

import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, select
from tests.store.forked import Forks, forks, is_running
from tests.store.old_store import FIRST, Expected, columns, fill, fingerprint
from tests.store.sizes import size

from preftune.store import events
from preftune.store.database import Database, database_url
from preftune.store.migrate import revision
from preftune.store.schema import members, projects

KILLS = 20
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Old:
    """A store of the first version that can be copied."""

    copy: Callable[[], str]  # a fresh copy; its URL
    begun: Callable[[str, int], bool]  # whether a process has opened the copy
    columns: dict[str, tuple[list[str], list[str]]]
    seals: dict[str, str]
    expected: Expected

    def check(self, url: str) -> None:
        """Compare an upgraded copy with what was written, row by row."""
        engine = create_engine(database_url(url))
        assert fingerprint(engine, self.columns) == self.seals
        with engine.connect() as db:
            counts = db.execute(select(projects.c.items_open, projects.c.items_done)).one()
            judged = db.execute(select(members.c.user_id, members.c.judged)).all()
        engine.dispose()
        assert tuple(counts) == (self.expected.open, self.expected.done)
        assert dict(map(tuple, judged)) == self.expected.judged


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Old]:
    folder = tmp_path_factory.mktemp("old")
    copying = _sqlite(folder) if request.param == "sqlite" else _postgresql(request)
    url, copy, begun = copying
    engine = create_engine(database_url(url))
    expected = fill(engine, size(20_000, 100_000))
    found = columns(engine)
    seals = fingerprint(engine, found)
    engine.dispose()
    yield Old(copy=copy, begun=begun, columns=found, seals=seals, expected=expected)


Copying = tuple[str, Callable[[], str], Callable[[str, int], bool]]


def _sqlite(folder: Path) -> Copying:
    first = folder / "old.db"

    def copy() -> str:
        return str(shutil.copy(first, folder / f"{uuid.uuid4().hex}.db"))

    def begun(url: str, process: int) -> bool:
        lock = Path(f"{url}.lock")
        return lock.exists() and lock.read_text() == f"process {process}"

    return str(first), copy, begun


def _postgresql(request: pytest.FixtureRequest) -> Copying:
    cluster = request.getfixturevalue("postgresql")
    admin = psycopg.connect(f"{cluster}/postgres", autocommit=True)
    request.addfinalizer(admin.close)
    first = f"old{uuid.uuid4().hex}"
    admin.execute(f"CREATE DATABASE {first}")

    def copy() -> str:
        name = f"t{uuid.uuid4().hex}"
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {first}")
        return f"{cluster}/{name}"

    def begun(url: str, _process: int) -> bool:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
        return admin.execute(query, [url.rpartition("/")[2]]).fetchone() is not None

    return f"{cluster}/{first}", copy, begun


def kill_at(parent: Forks, url: str, old: Old, delay_s: float) -> None:
    """Let a process upgrade a store, and kill it so long after it opened it."""
    process = parent.run("store", "verify", url)
    deadline = time.monotonic() + PATIENCE_S
    while not old.begun(url, process) and is_running(process):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay_s)
    parent.end(process)


def version(url: str) -> str | None:
    engine = create_engine(database_url(url))
    with engine.connect() as db:
        found = revision(db)
    engine.dispose()
    return found


def test_r16_a_killed_upgrade_completes_when_it_runs_again(old: Old, tmp_path: Path) -> None:
    url = old.copy()
    began = time.monotonic()
    with Database(url) as store:
        took_s = time.monotonic() - began
        with store.read() as db:
            events.verify(db, "prj")
            newest = revision(db)
    old.check(url)
    url, chance, felt = old.copy(), random.Random(16), 0
    with forks(tmp_path / "log", "preftune.store.reading") as parent:
        for _ in range(KILLS):
            kill_at(parent, url, old, chance.uniform(0, took_s))
            if (found := version(url)) == newest:
                old.check(url)
                url = old.copy()
            else:
                assert found == FIRST  # never anything between the two
                felt += 1
    assert felt >= KILLS // 4
    with Database(url) as store, store.read() as db:
        assert revision(db) == newest
        events.verify(db, "prj")
    old.check(url)
