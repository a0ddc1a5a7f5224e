"""Jobs in a store, with short ways to do what tests of the job table do often."""

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, delete

from preftune.store import job_leases, jobs
from preftune.store.database import Database
from preftune.store.job_events import StoredEvent, events_since, tell
from preftune.store.job_schema import job_events, job_metadata, tuned_models
from preftune.store.job_schema import jobs as jobs_table
from preftune.store.jobs import Job, NewJob, What
from preftune.store.projects import ProjectSettings, create_project
from preftune.wire.job import Asked, Beat, Checkpoint, Event, Finish, Outcome, Problem, Started

T = TypeVar("T")
NOW_S = 1_790_000_000.0
LONG_S = 1e6  # a lease that does not end in a test
OVER_S = -1.0  # one that has ended as it begins


def forget_jobs(db: Connection) -> None:
    for table in (job_events, job_metadata, tuned_models, jobs_table):
        db.execute(delete(table))


class JobWorld:
    """A project with jobs, whose workers are this test."""

    def __init__(self, store: Database) -> None:
        """Begin anew: jobs that another test left in the store are gone."""
        self.store = store
        self.write(forget_jobs)
        self.project = self.new_project()
        self.now_s = NOW_S

    def new_project(self) -> str:
        return self.write(
            lambda db: create_project(
                db, name=uuid.uuid4().hex, settings=ProjectSettings(), by="setup"
            )
        )

    def write(self, work: Callable[[Connection], T]) -> T:
        return self.store.write(work)

    def create(self, **fields: Any) -> Job:
        given = {
            "project_id": self.project,
            "key_id": None,
            "model": "tiny",
            "method": "dpo",
            "request": {"model": "tiny"},
            "resolved": {"n_epochs": "auto"},
            "training_file": "file-1",
            "seed": 7,
        }
        return self.write(
            lambda db: jobs.create(db, NewJob(**{**given, **fields}), now_s=self.now_s)
        )

    def job(self, job_id: str) -> Job:
        with self.store.read() as db:
            return jobs.any_job(db, job_id)

    def events(self, job_id: str) -> list[StoredEvent]:
        with self.store.read() as db:
            return events_since(db, self.job(job_id).project_id, job_id)

    def keys(self, job_id: str) -> list[str]:
        return [event.key for event in self.events(job_id)]

    def ask(self, job_id: str, what: What) -> Job:
        return self.write(lambda db: jobs.ask(db, self.project, job_id, what, now_s=self.now_s))

    def claim(self, owner: str = "here", lease_s: float = LONG_S) -> Job | None:
        return self.write(lambda db: job_leases.claim(db, owner=owner, lease_s=lease_s))

    def claimed(self, lease_s: float = LONG_S) -> Job:
        found = self.claim(lease_s=lease_s)
        assert found is not None
        return found

    def beat(self, job: Job, step: int = 0, lease_s: float = LONG_S) -> Asked:
        message = Beat(fence=job.fence, step=step)
        return self.write(lambda db: job_leases.beat(db, job.id, message, lease_s=lease_s))

    def started(self, job: Job, total_steps: int = 10) -> Job:
        message = Started(fence=job.fence, hyperparameters={"n_epochs": 3}, total_steps=total_steps)
        return self.write(lambda db: job_leases.started(db, job.id, message, now_s=self.now_s))

    def tell(self, job: Job, *keys: str) -> int:
        return self.append(job.id, *keys, fence=job.fence)

    def append(self, job_id: str, *keys: str, fence: int | None = None, **fields: Any) -> int:
        events = [Event(key=key, message=key, created_s=self.now_s, **fields) for key in keys]
        return self.write(lambda db: tell(db, job_id, events, fence=fence))

    def checkpoint(self, job: Job, step: int, folder: str = "") -> str:
        message = Checkpoint(
            fence=job.fence,
            step=step,
            folder=f"models/{step}",
            manifest_hash="0" * 64,
            metrics={"train_loss": 0.5},
        )
        where = folder or f"jobs/{job.id}/attempt-{job.fence}/models/{step}"
        return self.write(
            lambda db: job_leases.checkpoint(
                db, job.id, message, folder=where, base_name="tiny", now_s=self.now_s
            )
        )

    def finish(self, job: Job, outcome: Outcome, step: int = 0, why: str = "") -> Job:
        failed = Problem(
            code="invalid_training_file", message="Line 3 is empty.", param="training_file"
        )
        message = Finish(
            fence=job.fence,
            outcome=outcome,
            step=step,
            manifest_hash="1" * 64,
            error=failed if outcome == "failed" else None,
            trained_tokens=123,
            why=why,
        )
        return self.write(
            lambda db: job_leases.finish(
                db,
                job.id,
                message,
                now_s=self.now_s,
                folder=f"jobs/{job.id}/attempt-{job.fence}/models/{step}",
                base_name="tiny",
                result_files=("file-2",),
            )
        )

    def release(self, job: Job, *, counts: bool = True) -> Job:
        return self.write(
            lambda db: job_leases.release(
                db,
                job.id,
                fence=job.fence,
                reason="killed by signal 9",
                now_s=self.now_s,
                counts=counts,
            )
        )

    def expired(self) -> list[str]:
        with self.store.read() as db:
            return [job.id for job in job_leases.expired(db)]
