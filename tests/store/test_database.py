"""The writer: what was acknowledged is there, a write that fails fails alone."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError

from preftune.errors import StoreError
from preftune.store.database import Database, database_url, shown
from preftune.store.schema import login_attempts, metadata


def add(db: Connection, who: str | None) -> None:
    db.execute(insert(login_attempts).values(who=who, at_s=1.0))


def all_of(store: Database) -> list[str]:
    with store.read() as db:
        return sorted(db.scalars(select(login_attempts.c.who)))


def test_a_write_is_seen_as_soon_as_it_is_acknowledged(store: Database) -> None:
    store.write(lambda db: add(db, "a"))
    assert all_of(store) == ["a"]


def test_a_write_that_fails_fails_alone_in_its_group(store: Database) -> None:
    gate = threading.Event()

    def wait(db: Connection) -> None:
        gate.wait(5)
        add(db, "slow")

    slow = store.submit(wait)
    names = ["a", None, "b"]
    waiting = [store.submit(partial(add, who=name)) for name in names]
    gate.set()
    slow.result(5)
    assert isinstance(waiting[1].exception(5), IntegrityError)
    assert [waiting[0].result(5), waiting[2].result(5)] == [None, None]
    assert all_of(store) == ["a", "b", "slow"]


def test_a_write_that_fails_leaves_nothing_of_itself(store: Database) -> None:
    def half(db: Connection) -> None:
        add(db, "half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.write(half)
    assert all_of(store) == []


def test_many_threads_write_and_nothing_is_lost(store: Database) -> None:
    def work(number: int) -> None:
        for turn in range(25):
            store.write(partial(add, who=f"{number}-{turn}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(all_of(store))) == 200


def test_a_reader_can_change_nothing(store: Database) -> None:
    with store.read() as db, pytest.raises(Exception, match=r"readonly|read-only"):
        add(db, "a")
    assert all_of(store) == []


def test_closing_writes_what_is_queued(database_url: str) -> None:
    with Database(database_url) as store:
        for number in range(50):
            store.submit(partial(add, who=str(number)))
    with Database(database_url) as store:
        assert len(all_of(store)) == 50


def test_sqlite_is_durable_and_checks_keys(tmp_path: Path) -> None:
    with Database(tmp_path / "s.db") as store:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = store.write(
            lambda db: [db.execute(text(f"PRAGMA {name}")).scalar() for name in pragmas]
        )
    assert found == ["wal", 2, 1]


def test_a_second_process_is_told_who_has_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Database(path):
        code = f"from preftune.store.database import Database; Database({str(path)!r})"
        ran = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True
        )
    assert ran.returncode != 0
    assert "has it open" in ran.stderr
    Database(path).close()


def test_tables_newer_than_the_program_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Database(path) as store:
        store.write(lambda db: db.execute(text("UPDATE alembic_version SET version_num='9999'")))
    with pytest.raises(StoreError, match="version 9999"):
        Database(path)


def test_the_migrations_make_the_tables_that_the_program_uses(store: Database) -> None:
    compared = store.write(
        lambda db: compare_metadata(MigrationContext.configure(db, opts={}), metadata)
    )
    assert compared == []


def test_a_write_nobody_waits_for_any_more_is_not_made(store: Database) -> None:
    gate = threading.Event()
    slow = store.submit(lambda db: gate.wait(5))
    gone = store.submit(partial(add, who="gone"))
    assert gone.cancel()
    gate.set()
    slow.result(5)
    store.write(partial(add, who="after"))
    assert all_of(store) == ["after"]


@pytest.mark.parametrize("url", ["mysql://a@b/c", "sqlite://", "://", "http://x"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="Use"):
        database_url(url)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in shown(database_url("postgresql://me:secret@host/db"))
