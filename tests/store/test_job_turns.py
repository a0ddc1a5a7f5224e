"""Whose job comes next, and how many of a project wait."""

import pytest
from tests.store.job_world import JobWorld

from preftune.store.database import Database
from preftune.store.jobs import count_waiting


@pytest.fixture
def world(kept_store: Database) -> JobWorld:
    return JobWorld(kept_store)


def test_projects_take_turns_by_what_is_worked_on_and_then_by_their_last_start(
    world: JobWorld,
) -> None:
    first = [world.create().id for _ in range(4)]
    other = world.new_project()
    second = [world.create(project_id=other).id for _ in range(2)]
    mine, theirs = world.started(world.claimed()), world.started(world.claimed())
    assert [mine.id, theirs.id] == [first[0], second[0]]
    world.now_s += 1
    world.finish(theirs, "succeeded", 3)
    again = world.started(world.claimed())  # of the first one job is worked on, of this none
    assert again.id == second[1]
    world.finish(mine, "succeeded", 3)
    third = world.create(project_id=world.new_project()).id
    world.finish(again, "succeeded", 3)
    late = world.create(project_id=other).id
    found = [world.claimed().id for _ in range(3)]
    assert found == [third, first[1], late]


def test_waiting_jobs_are_counted_for_each_project(world: JobWorld) -> None:
    made = [world.create() for _ in range(3)]
    world.create(state="validating_files")
    other = world.new_project()
    world.create(project_id=other)
    world.started(world.claimed())
    world.ask(made[1].id, "pause")
    with world.store.read() as db:
        assert [count_waiting(db, project) for project in (world.project, other)] == [2, 1]
