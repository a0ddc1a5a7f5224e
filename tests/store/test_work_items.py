"""Batches of work: leases, and R14: each result once, however often workers are killed."""

import dataclasses
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from tests.store.desk import desk, end, start, workers
from tests.store.sizes import size

from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError
from preftune.store.job_schema import work_items
from preftune.store.work_items import (
    WorkItem,
    add_work,
    give_back,
    keep_work,
    put_result,
    results_of,
    take_work,
    work_left,
)

LONG_S, OVER_S = 1e6, -1.0
ITEMS, KILL_EVERY_S = size(300, 10_000), size(15, 200) / 100
CALL_S = 0.005
LEASE_S = 2.0  # a piece can be leased to a worker in the moment after it was killed


@pytest.fixture
def store(kept_store: Database) -> Database:
    """A store without pieces of work."""
    kept_store.write(lambda db: db.execute(delete(work_items)))
    return kept_store


def add(store: Database, **pieces: str) -> int:
    return store.write(lambda db: add_work(db, "batch", pieces))


def take(
    store: Database, owner: str = "ann", *, count: int = 1, lease_s: float = LONG_S
) -> list[WorkItem]:
    return store.write(lambda db: take_work(db, "batch", owner=owner, count=count, lease_s=lease_s))


def put(store: Database, item: WorkItem, result: str) -> bool:
    return store.write(lambda db: put_result(db, item, result))


def results(store: Database) -> dict[str, str | None]:
    with store.read() as db:
        return dict(results_of(db, "batch"))


def test_pieces_are_taken_in_order_each_by_one(store: Database) -> None:
    assert add(store, a="1", b="2", c="3") == 3
    assert add(store, c="other", d="4") == 1
    first, rest = take(store, count=2), take(store, "bob", count=9)
    assert [(one.key, one.content) for one in (*first, *rest)] == [
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "4"),
    ]
    assert take(store) == []


def test_the_first_result_stands(store: Database) -> None:
    add(store, a="1", b="2")
    (slow,) = take(store, lease_s=OVER_S)
    (fast,) = take(store, "bob")
    assert (slow.key, fast.key, fast.attempts) == ("a", "a", 2)
    assert put(store, fast, "fast")
    assert not put(store, slow, "slow")
    assert results(store) == {"a": "fast", "b": None}
    with store.read() as db:
        assert work_left(db, "batch") == 1


def test_a_slow_worker_that_nobody_overtook_is_heard(store: Database) -> None:
    add(store, a="1")
    (item,) = take(store, lease_s=OVER_S)
    assert put(store, item, "late")
    assert results(store) == {"a": "late"}


def test_a_lease_is_kept_by_its_holder_alone(store: Database) -> None:
    add(store, a="1")
    (old,) = take(store, lease_s=OVER_S)
    store.write(lambda db: keep_work(db, old, lease_s=LONG_S))
    assert take(store, "bob") == []
    store.write(lambda db: keep_work(db, old, lease_s=OVER_S))
    (new,) = take(store, "bob")
    for gone in (old, dataclasses.replace(new, key="none")):
        with pytest.raises(LostLeaseError):
            store.write(lambda db, gone=gone: keep_work(db, gone, lease_s=LONG_S))  # type: ignore[misc]  # a default binds the loop's value
    put(store, new, "done")
    with pytest.raises(LostLeaseError):
        store.write(lambda db: keep_work(db, new, lease_s=LONG_S))


def test_what_a_gone_worker_had_is_free_at_once(store: Database) -> None:
    add(store, a="1", b="2", c="3")
    done, _ = take(store, count=2)
    take(store, "bob")
    put(store, done, "done")
    assert store.write(lambda db: give_back(db, "batch", owner="ann")) == 1
    assert [one.key for one in take(store, "bob")] == ["b"]
    assert take(store, "bob") == []


class Judging:
    """A batch whose workers are processes, and an endpoint that takes money for each call."""

    def __init__(self, store: Database) -> None:
        self.store, self.paid, self.stored = store, list[str](), list[str]()

    def take(self, pid: int) -> dict[str, Any] | None:
        found = take(self.store, str(pid), lease_s=LEASE_S)
        return dataclasses.asdict(found[0]) if found else None

    def pay(self, key: str, content: str) -> str:
        self.paid.append(key)
        time.sleep(CALL_S)  # what the endpoint needs
        return answer(key, content)

    def put(self, item: dict[str, Any], result: str) -> bool:
        stands = put(self.store, WorkItem(**item), result)
        if stands:
            self.stored.append(item["key"])
        return stands

    def left(self) -> int:
        with self.store.read() as db:
            return work_left(db, "batch")


def answer(key: str, content: str) -> str:
    return hashlib.sha256(f"{key} {content}".encode()).hexdigest()


def test_r14_each_item_is_stored_once_though_workers_are_killed(
    store: Database, tmp_path: Path
) -> None:
    pieces = {f"item-{number}": f"text {number}" for number in range(ITEMS)}
    store.write(lambda db: add_work(db, "batch", pieces))
    judging, kills, chance = Judging(store), 0, random.Random(1)
    operations = {name: getattr(judging, name) for name in ("take", "pay", "put")}
    with desk(tmp_path, operations) as address, workers(address, "pieces", 4) as running:
        while judging.left():
            time.sleep(KILL_EVERY_S)
            gone = running.pop(chance.randrange(len(running)))
            kills += gone.poll() is None
            end(gone)
            store.write(lambda db, pid=gone.pid: give_back(db, "batch", owner=str(pid)))  # type: ignore[misc]  # a default binds the loop's value
            running.append(start(address, "pieces"))
    assert results(store) == {key: answer(key, text) for key, text in pieces.items()}
    assert sorted(judging.stored) == sorted(pieces)
    assert kills >= 3
    assert len(judging.paid) - ITEMS <= kills  # what was in flight: one piece each, none beyond
