"""Names of tuned models, checkpoints in order, deletion."""

import re

import pytest
from tests.store.job_world import JobWorld

from preftune.store.database import Database
from preftune.store.job_errors import UnknownModelError
from preftune.store.tuned_models import TunedModel, checkpoints_of, delete, model, models_of


@pytest.fixture
def world(kept_store: Database) -> JobWorld:
    return JobWorld(kept_store)


def steps(world: JobWorld, job_id: str) -> list[tuple[int, str]]:
    found: list[TunedModel] = []
    more = True
    while more:
        after = found[-1].checkpoint_id if found else None
        with world.store.read() as db:
            page = checkpoints_of(db, world.project, job_id, after=after, limit=2)
        found += page.data
        more = page.has_more
    return [(one.step, one.name) for one in found]


def named(world: JobWorld, name: str) -> TunedModel | None:
    with world.store.read() as db:
        return model(db, world.project, name)


def test_names_say_base_organization_suffix_and_step(world: JobWorld) -> None:
    world.create(suffix="tone")
    mine = world.claimed()
    own = "[1-9A-HJ-NP-Za-km-z]{8}"
    assert re.fullmatch(f"ft:tiny:preftune:tone:{own}:ckpt-step-4", world.checkpoint(mine, 4))
    done = world.finish(mine, "succeeded", 8)
    assert re.fullmatch(f"ft:tiny:preftune:tone:{own}", done.fine_tuned_model or "")
    world.create()
    plain = world.finish(world.claimed(), "succeeded", 1).fine_tuned_model
    assert re.fullmatch(f"ft:tiny:preftune::{own}", plain or "")


def test_checkpoints_come_highest_step_first_and_the_last_is_the_final_model(
    world: JobWorld,
) -> None:
    job = world.create()
    mine = world.claimed()
    names = {step: world.checkpoint(mine, step) for step in (2, 4, 6)}
    done = world.finish(mine, "succeeded", 6)
    assert steps(world, job.id) == [(6, done.fine_tuned_model), (4, names[4]), (2, names[2])]
    assert named(world, names[6]) is not None  # its name was told: it answers still


def test_a_checkpoint_told_twice_keeps_its_name_and_its_newer_files(world: JobWorld) -> None:
    job = world.create()
    mine = world.claimed()
    name = world.checkpoint(mine, 2, folder="first")
    assert world.checkpoint(mine, 2, folder="first") == name
    world.release(mine)
    assert world.checkpoint(world.claimed(), 2, folder="second") == name
    found = named(world, name)
    assert found is not None
    assert (found.folder, found.metrics, found.job_id) == ("second", {"train_loss": 0.5}, job.id)
    assert steps(world, job.id) == [(2, name)]
    assert world.keys(job.id).count("checkpoint-2") == 1


def test_a_deleted_model_is_gone_and_its_job_stays(world: JobWorld) -> None:
    job = world.create()
    mine = world.claimed()
    kept, gone = world.checkpoint(mine, 2), world.checkpoint(mine, 4)
    done = world.finish(mine, "succeeded", 6)
    world.write(lambda db: delete(db, world.project, gone, now_s=1.0))
    assert named(world, gone) is None
    with world.store.read() as db:
        assert [one.name for one in models_of(db, world.project)] == [done.fine_tuned_model, kept]
    assert [name for _, name in steps(world, job.id)] == [done.fine_tuned_model, kept]
    assert world.job(job.id) == done
    with pytest.raises(UnknownModelError, match=gone):
        world.write(lambda db: delete(db, world.project, gone, now_s=1.0))


def test_a_deleted_checkpoint_still_marks_the_place_of_a_page(world: JobWorld) -> None:
    job = world.create()
    mine = world.claimed()
    names = [world.checkpoint(mine, step) for step in (1, 2, 3)]
    with world.store.read() as db:
        first = checkpoints_of(db, world.project, job.id, limit=1)
    world.write(lambda db: delete(db, world.project, names[2], now_s=1.0))
    with world.store.read() as db:
        rest = checkpoints_of(db, world.project, job.id, after=first.data[-1].checkpoint_id)
    assert [one.name for one in rest.data] == [names[1], names[0]]


def test_another_project_sees_no_model(world: JobWorld) -> None:
    world.create()
    name = world.finish(world.claimed(), "succeeded", 1).fine_tuned_model or ""
    here, world.project = world.project, world.new_project()
    assert named(world, name) is None
    with pytest.raises(UnknownModelError):
        world.write(lambda db: delete(db, world.project, name, now_s=1.0))
    world.project = here
    assert named(world, name) is not None
