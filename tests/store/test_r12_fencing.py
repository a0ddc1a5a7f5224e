"""R12: a worker stopped beyond its lease finds, when it goes on, that nothing of it is heard."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.store.desk import desk, workers
from tests.store.job_world import JobWorld
from tests.store.sizes import size

from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError
from preftune.store.job_leases import expired, held
from preftune.store.jobs import Job, count_by_state
from preftune.store.tuned_models import checkpoints_of

LEASE_S = 0.15
STEPS = 8
PAUSES = size(10, 200)
PATIENCE_S = 60.0


class Office:
    """A server whose workers are processes."""

    def __init__(self, store: Database) -> None:
        self.world, self.refused = JobWorld(store), list[int]()

    def claim(self, pid: int) -> Any:
        job = self.world.claim(str(pid), LEASE_S)
        return job and (job.id, job.fence, job.step, STEPS)

    def step(self, job_id: str, fence: int, step: int) -> None:
        def say(job: Job) -> None:
            self.world.beat(job, step - 1, LEASE_S)
            self.world.append(job_id, f"step-{step}", fence=fence, data={"fence": fence})

        self.hear(job_id, fence, say)

    def checkpoint(self, job_id: str, fence: int, step: int) -> None:
        self.hear(job_id, fence, lambda job: self.world.checkpoint(job, step))

    def finish(self, job_id: str, fence: int, step: int) -> None:
        self.hear(job_id, fence, lambda job: self.world.finish(job, "succeeded", step))

    def hear(self, job_id: str, fence: int, say: Callable[[Job], object]) -> None:
        try:
            say(dataclasses.replace(self.world.job(job_id), fence=fence))
        except LostLeaseError:
            self.refused.append(fence)
            raise

    def wait_until(self, fact: Callable[[], Any]) -> Any:
        """Return what `fact` returns once it is true; expired leases are released meanwhile."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if found := fact():
                return found
            with self.world.store.read() as db:
                gone = expired(db)
            for job in gone:
                with suppress(LostLeaseError):  # it has ended meanwhile
                    self.world.release(job, counts=False)
            time.sleep(0.003)
        pytest.fail("nothing happens any more")

    def stop_one(self) -> bool:
        """Stop a worker until another has taken over; return False if it had just finished."""
        job = self.wait_until(self.busy)
        pid = int(job.lease_owner.partition("@")[0])
        os.kill(pid, signal.SIGSTOP)
        self.wait_until(
            lambda: self.world.job(job.id).finished_s or self.last_fence(job) > job.fence
        )
        os.kill(pid, signal.SIGCONT)
        if self.last_fence(job) == job.fence:
            return False
        self.wait_until(lambda: job.fence in self.refused)
        return True

    def busy(self) -> Job | None:
        """Return a job that a worker has made a step of."""
        with self.world.store.read() as db:
            return next((job for job in held(db) if self.last_fence(job) == job.fence), None)

    def last_fence(self, job: Job) -> int:
        return max((fence for _, fence in told(self.world, job.id)), default=0)


def told(world: JobWorld, job_id: str) -> list[tuple[str, int]]:
    """Return the steps of a job as they were told, each with the fence of who told it."""
    events = world.events(job_id)
    return [(one.key, (one.data or {})["fence"]) for one in events if one.key.startswith("step-")]


def test_r12_a_stopped_worker_publishes_nothing(store: Database, tmp_path: Path) -> None:
    office = Office(store)
    world, made, caught = office.world, list[str](), 0
    operations = {name: getattr(office, name) for name in ("claim", "step", "checkpoint", "finish")}
    with desk(tmp_path, operations) as address, workers(address, "jobs", 2):
        while caught < PAUSES:
            made.append(world.create().id)
            caught += office.stop_one()
        office.wait_until(lambda: all(world.job(job_id).finished_s for job_id in made))
    with store.read() as db:
        assert count_by_state(db) == {"succeeded": len(made)}
    assert len(office.refused) >= PAUSES
    for job_id in made:
        check_story(world, job_id)


def check_story(world: JobWorld, job_id: str) -> None:
    """Each step was told once, in order, by fences that only rise; one model came of it."""
    steps = told(world, job_id)
    assert [key for key, _ in steps] == [f"step-{n}" for n in range(1, STEPS + 1)]
    fences = [fence for _, fence in steps]
    assert fences == sorted(fences)
    with world.store.read() as db:
        (last,) = checkpoints_of(db, world.project, job_id).data
    assert last.final
    assert last.name == world.job(job_id).fine_tuned_model
    assert f"attempt-{world.job(job_id).fence - 1}/" in last.folder
