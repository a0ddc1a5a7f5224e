"""The overview counts what is there, by the hour and by person."""

import datetime as dt
from functools import partial

from sqlalchemy import update
from tests.store.world import World

from preftune.store.items import withdraw
from preftune.store.overview import (
    AtWork,
    ItemCounts,
    colleagues,
    events_page,
    item_counts,
    last_seq,
    names_of,
    recent,
)
from preftune.store.schema import events as log
from preftune.store.schema import items


def counts(world: World) -> ItemCounts:
    with world.store.read() as db:
        return item_counts(db, world.project)


def at(world: World, hour: int, minute: int = 0) -> None:
    """Let the last event have happened at this time of 20 November."""
    when = f"2026-11-20T{hour:02}:{minute:02}:00.000Z"
    with world.store.read() as db:
        seq = last_seq(db, world.project)
    last = update(log).where(log.c.project_id == world.project, log.c.seq == seq)
    world.store.write(lambda db: db.execute(last.values(at=when)).rowcount)


def test_items_are_counted_by_what_became_of_them(world: World) -> None:
    world.project = world.new_project("pairs", raters_per_item=2)
    world.add(4)
    world.add(1, first=4, use="gold", gold={"overall": {"kind": "scale", "grade": 1}})
    one, other = world.next("ann"), world.next("bob")
    world.say("ann", one, grade=1)
    world.say("bob", other, grade=7 if one.shown == other.shown else 1)
    world.store.write(lambda db: withdraw(db, world.project, [world_item(world, 4)], by="lead"))
    found = counts(world)
    assert found == ItemCounts(open=2, done=1, disagreed=1, gold=1, withdrawn=1)
    assert (found.labelled, found.total) == (1, 3)


def world_item(world: World, position: int) -> str:
    query = items.select().where(items.c.project_id == world.project, items.c.position == position)
    with world.store.read() as db:
        return str(db.execute(query).one().id)


def test_an_empty_project_counts_nothing(world: World) -> None:
    assert counts(world) == ItemCounts()


def test_votes_are_counted_by_the_hour_of_the_last_day(world: World) -> None:
    world.add(6)
    at(world, 7)
    for hour, minute in ((8, 0), (9, 0), (9, 59), (11, 30)):
        task = world.next("ann")
        at(world, hour, minute)
        world.say("ann", task)
        at(world, hour, minute)
    world.next("bob")
    at(world, 11, 40)
    with world.store.read() as db:
        now = dt.datetime(2026, 11, 20, 11, 45, tzinfo=dt.UTC)
        found = recent(db, world.project, now=now, hours=3)
    assert [(hour.begins, hour.votes) for hour in found.hours] == [
        ("2026-11-20T09", 2),
        ("2026-11-20T10", 0),
        ("2026-11-20T11", 1),
    ]
    ann, bob = found.at_work
    assert ann == AtWork(
        user_id="ann", name="ann", votes=3, last_at="2026-11-20T11:30:00.000Z", has_item=False
    )
    assert (bob.user_id, bob.votes, bob.has_item) == ("bob", 0, True)


def test_people_have_names_and_strangers_their_id(world: World) -> None:
    with world.store.read() as db:
        assert names_of(db, ["ann", "ghost", "ann"]) == {"ann": "ann", "ghost": "ghost"}
        assert [(c.name, c.role) for c in colleagues(db, world.project)] == [
            ("ann", "rater"),
            ("bob", "rater"),
            ("lead", "lead"),
        ]


def test_the_log_is_read_page_by_page_from_its_end(world: World) -> None:
    for number in range(5):
        world.store.write(
            partial(withdraw, project_id=world.project, item_ids=[str(number)], by="lead")
        )
    with world.store.read() as db:
        total = last_seq(db, world.project)
        first = events_page(db, world.project, before=None, count=3)
        assert [event.seq for event in first] == [total, total - 1, total - 2]
        rest = events_page(db, world.project, before=first[-1].seq, count=100)
        assert [event.seq for event in rest] == list(range(total - 3, 0, -1))
        assert events_page(db, world.project, before=1, count=3) == []
