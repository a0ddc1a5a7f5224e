"""From a row of a dataset back to the clicks it came from."""

import uuid

import pytest
from tests.store.test_snapshots import frozen, prefer
from tests.store.world import World

from preftune.errors import StoreError
from preftune.store import events
from preftune.store.labels import Vote, revise, settle, undo
from preftune.store.lineage import held_at, line_of, lineage, rows_of, snapshot
from preftune.store.projects import publish_guideline


def grade(item_id: str, grade: int) -> Vote:
    verdicts = {"overall": {"kind": "scale", "grade": grade}}
    return Vote(key=uuid.uuid4().hex, item_id=item_id, round=0, verdicts=verdicts)


def test_a_row_leads_to_item_rater_guideline_generator_and_log(world: World) -> None:
    world.add(2)
    world.store.write(lambda db: publish_guideline(db, world.project, "Be kind", base=0, by="lead"))
    prefer(world, "ann", good=0, why="kinder")
    prefer(world, "ann", good=1)
    made = frozen(world)
    found = lineage(world.store, world.project, made.hash, 1)
    assert found.item.comparison_id == "c0"
    assert [r.generator for r in found.item.content.responses] == ["model-good", "model-bad"]
    (said,) = found.said
    assert (said.user_id, said.guideline, said.why) == ("ann", 1, "kinder")
    assert [entry.event.type for entry in found.logged] == ["shown", "voted"]
    assert found.logged[-1].event.seq == said.seq
    assert all(len(entry.hash) == 64 for entry in found.logged)


def test_a_row_shows_what_held_when_it_was_frozen_not_what_came_later(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    world.say("ann", task, grade=1)
    made = frozen(world)
    world.store.write(lambda db: revise(db, world.project, "ann", grade(task.item_id, 7)))
    settled = grade(task.item_id, 4)
    world.store.write(lambda db: settle(db, world.project, "lead", settled, shown=(0, 1)))
    found = lineage(world.store, world.project, made.hash, 1)
    assert [entry.event.type for entry in found.logged] == ["shown", "voted"]
    assert [said.seq for said in found.said] == [found.logged[-1].event.seq]


def test_a_settled_verdict_is_the_one_that_held(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    world.say("ann", task, grade=1)
    settled = grade(task.item_id, 7)
    world.store.write(lambda db: settle(db, world.project, "lead", settled, shown=(0, 1)))
    (said,) = lineage(world.store, world.project, frozen(world).hash, 1).said
    assert (said.user_id, said.settles) == ("lead", True)


def test_what_was_taken_back_does_not_hold(world: World) -> None:
    world.add(1)
    task = world.next("ann")
    world.say("ann", task, grade=1)
    world.store.write(lambda db: undo(db, world.project, "ann", "undo-1"))
    with world.store.read() as db:
        assert held_at(events.of_item(db, world.project, task.item_id)) == set()
    world.say("ann", task, grade=3)
    with world.store.read() as db:
        happened = events.of_item(db, world.project, task.item_id)
    assert held_at(happened) == {happened[-1].seq}


def test_rows_are_read_in_parts_and_found_by_id(world: World) -> None:
    world.add(3)
    for _ in range(3):
        prefer(world, "ann", good=0)
    made = frozen(world)
    first, second = rows_of(world.store, made.hash, count=2)
    (third,) = rows_of(world.store, made.hash, after=2)
    assert [first.line, second.line, third.line] == [1, 2, 3]
    assert line_of(world.store, made.hash, third.row.id) == 3
    assert line_of(world.store, made.hash, "c9/overall") is None


def test_what_is_not_there_is_said(world: World) -> None:
    world.add(1)
    prefer(world, "ann", good=0)
    made = frozen(world)
    with pytest.raises(StoreError, match="has no row 2"):
        lineage(world.store, world.project, made.hash, 2)
    other = world.new_project("other")
    with world.store.read() as db, pytest.raises(StoreError, match="is not there"):
        snapshot(db, other, made.hash)
