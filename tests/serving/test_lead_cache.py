"""The lead's pages show what holds; where counting takes long, they wait for nothing."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.store.said import graded, noisy, put
from tests.store.world import World

from preftune.errors import StoreError
from preftune.serving.lead_cache import FRESH_S, Counted, ago, count_anew, counted
from preftune.store.database import Database

ITEMS = 200
PATIENCE_S = 30.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Database(tmp_path / "labels.db") as store:
        yield World(store)


def judged(world: World) -> World:
    """Give a project verdicts of two raters, which take some milliseconds to count."""
    draw = random.Random(1)
    world.add(ITEMS)
    truth = {n: draw.choice((-1, 1)) for n in range(1, ITEMS + 1)}
    for who in ("ann", "bob"):
        put(world, noisy(draw, who, items=ITEMS, truth=truth, accuracy=0.8))
    return world


def changed(world: World) -> None:
    """Add a verdict, and say that the lead wants to see it."""
    put(world, [graded(1, "lead", 2)])
    count_anew(world.store, world.project)


def slow(world: World) -> Counted:
    """Return the counts as a page has them where every count takes long."""
    return counted(world.store, world.project, quick_s=0.0)


def test_counts_serve_for_a_while(world: World) -> None:
    first = counted(world.store, world.project)
    put_late = judged(world)
    assert counted(put_late.store, put_late.project) is first
    assert first.is_fresh
    assert first.age == ""


def test_a_change_is_seen_at_once_where_counting_is_quick(world: World) -> None:
    judged(world)
    assert len(counted(world.store, world.project).said) == 2 * ITEMS
    changed(world)
    assert len(counted(world.store, world.project).said) == 2 * ITEMS + 1


def test_old_counts_serve_while_they_are_counted_anew(world: World) -> None:
    before = slow(judged(world))  # the first count is waited for
    changed(world)
    assert slow(world) is before
    deadline = time.monotonic() + PATIENCE_S
    while (found := slow(world)) is before:
        assert time.monotonic() < deadline
    assert len(found.said) == 2 * ITEMS + 1
    assert found.began_s > before.began_s
    assert slow(world) is found  # and nothing counts on


def test_a_change_while_they_are_counted_is_not_missed(world: World) -> None:
    before = slow(judged(world))
    changed(world)
    assert slow(world) is before  # begins to count
    changed(world)
    assert len(counted(world.store, world.project).said) == 2 * ITEMS + 2


def test_many_who_ask_at_once_get_one_count(world: World) -> None:
    judged(world)
    with ThreadPoolExecutor(16) as askers:
        found = list(askers.map(lambda _: counted(world.store, world.project), range(64)))
    assert len({id(one) for one in found}) == 1


def test_what_cannot_be_counted_is_refused_each_time(world: World) -> None:
    for _ in range(2):
        with pytest.raises(StoreError):
            counted(world.store, "nowhere")


def test_a_long_count_serves_twenty_times_as_long(world: World) -> None:
    counts = slow(world)

    def fresh(*, old_s: float, took_s: float) -> bool:
        began_s = time.monotonic() - old_s
        return Counted(
            at=counts.at,
            said=counts.said,
            agreement=counts.agreement,
            raters=counts.raters,
            began_s=began_s,
            took_s=took_s,
        ).is_fresh

    assert not fresh(old_s=FRESH_S + 1, took_s=0.01)
    assert fresh(old_s=60, took_s=4)  # until 4 + 80 s
    assert not fresh(old_s=90, took_s=4)


@pytest.mark.parametrize(
    ("age_s", "words"),
    [
        (9.9, ""),
        (10, "10 seconds ago"),
        (60, "1 minute ago"),
        (200, "3 minutes ago"),
        (7199, "1 hour ago"),
        (200_000, "2 days ago"),
    ],
)
def test_an_age_is_said_in_words(age_s: float, words: str) -> None:
    assert ago(age_s) == words
