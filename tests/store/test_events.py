"""The chain: every change of the log is found, at the event where it was made."""

import pytest
from sqlalchemy import delete, update
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.projects import (
    ProjectSettings,
    change_settings,
    create_project,
    guideline,
    project,
    publish_guideline,
)
from preftune.store.schema import events as table


def five_events(world: World) -> None:
    world.add(2)
    for _ in range(2):
        world.say("ann", world.next("ann"))


def test_a_log_that_nobody_touched_verifies(world: World) -> None:
    five_events(world)
    with world.store.read() as db:
        count = events.verify(db, world.project)
        assert [event.seq for event in events.log(db, world.project)] == list(range(1, count + 1))
        assert events.last(db, world.project, 1)[0].seq == count
    assert world.types()[-4:] == ["shown", "voted", "shown", "voted"]


@pytest.mark.parametrize(
    ("column", "value"), [("data", "{}"), ("user_id", "bob"), ("type", "skipped"), ("at", "x")]
)
def test_a_changed_event_is_named(world: World, column: str, value: str) -> None:
    five_events(world)
    here = (table.c.project_id == world.project, table.c.seq == 6)
    world.store.write(lambda db: db.execute(update(table).where(*here).values(**{column: value})))
    with world.store.read() as db, pytest.raises(StoreError, match="event 6 was changed"):
        events.verify(db, world.project)


@pytest.mark.parametrize(("seq", "named"), [(3, "event 3"), (None, "ends at event")])
def test_an_event_taken_out_is_noticed(world: World, seq: int | None, named: str) -> None:
    five_events(world)
    gone = seq or len(world.types())
    here = (table.c.project_id == world.project, table.c.seq == gone)
    world.store.write(lambda db: db.execute(delete(table).where(*here)))
    with world.store.read() as db, pytest.raises(StoreError, match=named):
        events.verify(db, world.project)


def test_projects_have_logs_of_their_own(world: World) -> None:
    other = world.new_project("second")
    five_events(world)
    with world.store.read() as db:
        assert {e.project_id for e in events.log(db, other)} == {other}
        assert events.verify(db, other) == 4  # made, and three members


def test_two_projects_of_one_name_are_refused(world: World) -> None:
    with pytest.raises(StoreError, match="there is one already"):
        world.store.write(
            lambda db: create_project(db, name="first", settings=ProjectSettings(), by="lead")
        )


def test_a_guideline_is_published_on_top_of_the_one_that_was_read(world: World) -> None:
    def publish(text: str, base: int) -> int:
        return world.store.write(
            lambda db: publish_guideline(db, world.project, text, base=base, by="lead")
        )

    assert publish("one", 0) == 1
    assert publish("two", 1) == 2
    with pytest.raises(StoreError, match="version 2 came out while you wrote"):
        publish("three", 1)
    with world.store.read() as db:
        assert guideline(db, world.project).text == "two"
        assert guideline(db, world.project, 1).text == "one"


def test_settings_come_back_as_they_were(world: World) -> None:
    wanted = ProjectSettings(
        kind="ranking", dimensions=("helpful", "tone"), reasons=("wrong", "rude"), gold_share=0.1
    )
    world.store.write(lambda db: change_settings(db, world.project, wanted, by="lead"))
    with world.store.read() as db:
        assert project(db, world.project).settings == wanted
