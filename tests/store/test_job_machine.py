"""R9, R13, R22 for jobs: whatever users and workers do, the table and a plain model agree."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.store.job_world import OVER_S, JobWorld, forget_jobs
from tests.store.sizes import size

from preftune.errors import StoreError
from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError, WrongStateError
from preftune.store.jobs import Job, What
from preftune.wire.job import Outcome

ENDED = {"succeeded", "failed", "cancelled"}
NUMBERS = itertools.count()
picks = st.integers(0, 20)
steps = st.integers(0, 5)


@dataclass(kw_only=True)
class Plain:
    """A job as the rules in words have it."""

    state: str
    asked: str = ""
    holder: Job | None = None  # as its worker claimed it
    silent: bool = False  # its lease has ended
    step: int = 0
    step_at_claim: int = 0
    attempts: int = 0  # without progress
    told: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def free(self, state: str) -> None:
        self.state, self.asked, self.holder, self.silent = state, "", None, False

    def tell(self, key: str) -> None:
        if key not in self.told:
            self.told.append(key)


class Jobs(RuleBasedStateMachine):
    """Everything that users, workers and the server do to jobs."""

    world: JobWorld

    @initialize()
    def begin(self) -> None:
        self.world.write(forget_jobs)
        self.jobs: dict[str, Plain] = {}  # in the order of creation
        self.workers: list[Job] = []  # all there ever were: they go on talking

    @rule(unread=st.booleans())
    def create(self, unread: bool) -> None:
        state = "validating_files" if unread else "queued"
        made = self.world.create(state=state)
        self.jobs[made.id] = Plain(
            state=state, told=["created", "validating" if unread else "validated"]
        )

    @rule()
    def claim(self) -> None:
        waiting = [
            job_id
            for job_id, job in self.jobs.items()
            if job.state in ("validating_files", "queued") and job.holder is None
        ]
        found = self.world.claim(f"worker-{next(NUMBERS)}")
        assert (found.id if found else None) == (waiting[0] if waiting else None)
        if found is not None:
            job = self.jobs[found.id]
            job.attempts = 1 if job.step > job.step_at_claim else job.attempts + 1
            job.holder, job.step_at_claim = found, job.step
            assert found.attempt == job.attempts
            assert all(old.fence < found.fence for old in self.workers if old.id == found.id)
            self.workers.append(found)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, step=steps, silent=st.booleans())
    def beat(self, pick: int, step: int, silent: bool) -> None:
        worker, job = self.any_worker(pick)
        lease_s = OVER_S if silent else 1e6
        if self.worker_says(worker, job, lambda: self.world.beat(worker, step, lease_s)):
            job.step, job.silent = max(job.step, step), silent

    @precondition(lambda self: self.workers)
    @rule(pick=picks)
    def start(self, pick: int) -> None:
        worker, job = self.any_worker(pick)
        if self.worker_says(worker, job, lambda: self.world.started(worker)):
            job.state = "running"
            job.tell("validated")
            job.tell("started")

    @precondition(lambda self: self.workers)
    @rule(pick=picks, first=steps, count=st.integers(1, 3))
    def tell(self, pick: int, first: int, count: int) -> None:
        worker, job = self.any_worker(pick)
        keys = [f"step-{n}" for n in range(first, first + count)]
        if self.worker_says(worker, job, lambda: self.world.tell(worker, *keys)):
            for key in keys:
                job.tell(key)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, step=steps)
    def checkpoint(self, pick: int, step: int) -> None:
        worker, job = self.any_worker(pick)
        answers: list[str] = []
        if self.worker_says(
            worker, job, lambda: answers.append(self.world.checkpoint(worker, step))
        ):
            assert job.names.setdefault(step, answers[0]) == answers[0]
            job.step = max(job.step, step)
            job.tell(f"checkpoint-{step}")

    @precondition(lambda self: self.workers)
    @rule(pick=picks, step=steps, outcome=st.sampled_from(get_args(Outcome)))
    def finish(self, pick: int, step: int, outcome: Outcome) -> None:
        worker, job = self.any_worker(pick)
        if not self.worker_says(worker, job, lambda: self.world.finish(worker, outcome, step)):
            return
        job.step, job.attempts = max(job.step, step), job.attempts - 1
        if outcome == "succeeded":
            job.told += ["model", "succeeded"]
        elif outcome == "failed":
            job.told.append("failed")
        elif outcome in ("cancelled", "paused"):
            job.told.append(f"{outcome}-{worker.fence}")
        elif job.asked == "pause":
            outcome = "paused"
            job.told.append(f"paused-{worker.fence}")
        else:
            job.told.append(f"stopped-{worker.fence}")
        job.free("queued" if outcome == "stopped" else outcome)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, counts=st.sampled_from((True, True, False)))
    def release(self, pick: int, counts: bool) -> None:
        worker, job = self.any_worker(pick)
        if not self.worker_says(worker, job, lambda: self.world.release(worker, counts=counts)):
            return
        job.attempts -= not counts
        if job.asked == "pause":
            job.told.append(f"paused-{worker.fence}")
            job.free("paused")
        elif job.attempts >= 3 and job.step == job.step_at_claim:
            job.told.append("failed")
            job.free("failed")
        else:
            job.told.append(f"released-{worker.fence}")
            job.free("queued")

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, what=st.sampled_from(get_args(What)))
    def ask(self, pick: int, what: What) -> None:
        job_id = list(self.jobs)[-1 - pick % len(self.jobs)]
        job = self.jobs[job_id]
        allowed = {
            "pause": job.state not in ENDED and job.state != "paused",
            "resume": job.state == "paused",
            "cancel": job.state not in ENDED,
        }
        if not allowed[what]:
            with pytest.raises(WrongStateError):
                self.world.ask(job_id, what)
            return
        fence = self.world.job(job_id).fence
        self.world.ask(job_id, what)
        if what == "pause" and job.holder is not None:
            job.asked = "pause"
            return
        state = {"pause": "paused", "resume": "queued", "cancel": "cancelled"}[what]
        job.told.append(f"{'resumed' if what == 'resume' else state}-{fence}")
        job.free(state)

    @rule(jump_s=st.sampled_from((-3600.0, 3600.0, 1.0)))
    def the_date_jumps(self, jump_s: float) -> None:
        self.world.now_s += jump_s

    @invariant()
    def the_table_says_what_the_model_says(self) -> None:
        for job_id, job in getattr(self, "jobs", {}).items():
            row = self.world.job(job_id)
            assert (row.state, row.asked, row.step) == (job.state, job.asked, job.step)
            assert bool(row.lease_owner) == (job.holder is not None)
            assert (row.finished_s is not None) == (job.state in ENDED)
            assert self.world.keys(job_id) == job.told

    @invariant()
    def silent_workers_are_found_and_no_others(self) -> None:
        silent = [name for name, job in getattr(self, "jobs", {}).items() if job.silent]
        assert self.world.expired() == silent

    def any_worker(self, pick: int) -> tuple[Job, Plain]:
        worker = self.workers[-1 - pick % len(self.workers)]
        return worker, self.jobs[worker.id]

    @staticmethod
    def worker_says(worker: Job, job: Plain, act: Callable[[], Any]) -> bool:
        """Return whether the worker was heard; the table has to refuse the same ones."""
        if job.holder is not None and job.holder.fence == worker.fence:
            act()
            return True
        with pytest.raises(LostLeaseError) as refused:
            act()
        assert isinstance(refused.value, StoreError)
        return False


def test_the_job_table_does_what_a_plain_model_does(store: Database) -> None:
    class Here(Jobs):
        world = JobWorld(store)

    quick = store.url.get_backend_name() == "sqlite"
    runs = size(8 if quick else 3, 2000)
    profile = settings(max_examples=runs, stateful_step_count=size(25, 50), deadline=None)
    run_state_machine_as_test(Here, settings=profile)
