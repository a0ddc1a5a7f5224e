"""A large dataset is made in a process of its own; people label on meanwhile."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.store.said import graded, put
from tests.store.world import World

from preftune.errors import DataError, StoreError
from preftune.store.database import Database
from preftune.store.freezing import SMALL, Freezing, freezer
from preftune.store.snapshots import dataset_file, freeze

LARGE = SMALL + 100
PATIENCE_S = 60.0


def judged_world(world: World, count: int, *, judged: int) -> World:
    draw = random.Random(1)
    world.add(count)
    last = range(count - judged + 1, count + 1)
    put(world, [graded(n, "ann", draw.choice((-2, 1, 3))) for n in last])
    return world


def wait(world: World, until: Callable[[Freezing], bool]) -> Freezing:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = freezer(world.store).last(world.project)
        if found is not None and until(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def start(world: World, name: str = "first") -> Freezing:
    made = freezer(world.store)
    return made.start(world.store, world.project, name=name, policy="votes", by="lead")


def test_a_small_dataset_is_there_at_once(world: World) -> None:
    judged_world(world, 4, judged=3)
    found = start(world)
    assert found.snapshot is not None
    assert found.snapshot.manifest["rows"] == 3
    assert freezer(world.store).last(world.project) == found


def test_nothing_judged_is_said_at_once(world: World) -> None:
    world.add(2)
    with pytest.raises(DataError, match="Label first"):
        start(world)


def test_people_label_on_while_a_large_dataset_is_made(world: World) -> None:
    judged_world(world, LARGE, judged=LARGE - 10)
    assert start(world).runs
    with pytest.raises(StoreError, match="is being made"):
        start(world, "second")
    world.say("bob", world.next("bob"))
    found = wait(world, lambda one: not one.runs)
    assert found.error == ""
    assert found.snapshot is not None
    assert found.snapshot.name == "first"
    assert found.snapshot.manifest["rows"] in (LARGE - 10, LARGE - 9)  # with bob's, or without
    assert dataset_file(world.store, found.snapshot.hash).is_file()
    again = freeze(world.store, world.project, name="again", by="lead")
    assert again.manifest["rows"] == LARGE - 9 or again.hash == found.snapshot.hash
    assert world.types().count("frozen") in (1, 2)


def test_why_a_large_dataset_could_not_be_made_is_kept(tmp_path: Path) -> None:
    with Database(tmp_path / "store.db") as store:
        world = World(store)
        world.add(LARGE)
        assert start(world).runs
        assert "Label first" in wait(world, lambda one: not one.runs).error
