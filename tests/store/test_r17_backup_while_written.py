"""R17: a backup taken while people label holds all that was acknowledged before it began."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.conftest import Ran
from tests.store.sizes import size
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.backup import backup, restore
from preftune.store.database import Database
from preftune.store.reading import reading
from preftune.store.schema import events as log
from preftune.store.schema import judgments

CLIENTS = ("ann", "bob", "cleo", "dan")
LABELS = size(400, 20_000)


@pytest.fixture
def busy(store: Database) -> World:
    world = World(store, raters=CLIENTS)
    for first in range(0, LABELS, 2000):
        world.add(min(2000, LABELS - first), first=first)
    return world


@contextmanager
def labelling(world: World) -> Iterator[list[str]]:
    """Let four clients label until the block ends; yield the keys that were acknowledged."""
    acknowledged: list[str] = []
    enough = threading.Event()

    def work(who: str) -> None:
        while not enough.is_set() and (task := world.next_or_none(who)) is not None:
            key = f"{who}-{task.item_id}"
            world.say(who, task, key=key)
            acknowledged.append(key)

    threads = [threading.Thread(target=work, args=(who,)) for who in CLIENTS]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def wait_for(acknowledged: list[str], count: int) -> None:
    deadline = time.monotonic() + 120
    while len(acknowledged) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def seals(store: Database, project_id: str) -> list[tuple[int, str]]:
    with store.read() as db:
        query = select(log.c.seq, log.c.hash).where(log.c.project_id == project_id)
        return [(row.seq, row.hash) for row in db.execute(query.order_by(log.c.seq))]


def keys(store: Database) -> set[str]:
    with store.read() as db:
        return {key for key in db.scalars(select(log.c.key).where(log.c.type == "voted")) if key}


def test_r17_a_backup_taken_while_people_label_is_whole(busy: World, tmp_path: Path) -> None:
    with labelling(busy) as acknowledged:
        wait_for(acknowledged, LABELS // 4)
        before = set(acknowledged)
        backup(busy.store, tmp_path / "saved")
        after = len(acknowledged)
        wait_for(acknowledged, min(after + 20, LABELS))
    with Database(tmp_path / "other.db") as other:
        counts = restore(tmp_path / "saved", other)
        kept = keys(other)
        assert before <= kept <= keys(busy.store)
        assert counts["judgments"] == len(kept)
        with other.read() as db:
            assert events.verify(db, busy.project) == counts["events"]
            assert len(db.execute(select(judgments)).all()) == len(kept)
        mine = seals(other, busy.project)
        assert mine == seals(busy.store, busy.project)[: len(mine)]  # one moment, not a mixture
        assert len(mine) < len(seals(busy.store, busy.project))


def test_the_command_backs_up_and_verifies_a_store_that_a_server_has_open(
    busy: World, tmp_path: Path, database_url: str, run_cli: Callable[..., Ran]
) -> None:
    url, files = database_url.removeprefix("sqlite:///"), tmp_path / "files"
    out = tmp_path / "saved"
    with labelling(busy) as acknowledged:
        wait_for(acknowledged, LABELS // 4)
        before = set(acknowledged)
        ran = run_cli("store", "backup", url, "--out", out, "--files", files)
        assert (ran.code, ran.err.count("error")) == (0, 0), ran.err
        assert run_cli("store", "verify", url).code == 0
    with Database(tmp_path / "other.db") as other:
        restore(out, other)
        assert before <= keys(other)


def test_a_store_that_is_read_beside_its_owner_cannot_be_changed(
    world: World, tmp_path: Path, database_url: str
) -> None:
    world.add(2)
    with reading(database_url) as other, other.read() as db, pytest.raises(Exception, match="read"):
        db.execute(judgments.delete())


def test_tables_of_another_version_are_not_read_beside_their_owner(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "store.db"
    with Database(path):
        with sqlite3.connect(path) as other:
            other.execute("UPDATE alembic_version SET version_num = '0000'")
        with pytest.raises(StoreError, match="of version 0000"), reading(path):
            pass


def test_a_store_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, run_cli: Callable[..., Ran]
) -> None:
    missing = tmp_path / "missing.db"
    for command in (["backup", missing, "--out", tmp_path / "saved"], ["verify", missing]):
        ran = run_cli("store", *command)
        assert ran.code == 2
        assert "missing.db: no store is there" in ran.err
    assert not list(tmp_path.iterdir())
