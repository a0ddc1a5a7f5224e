"""Gives jobs to worker processes, and watches over both process and lease.

One thread does all of it. It looks twice a second: a worker that has ended without a last word
sets its job free at once; a lease that has run out gives the job to another worker, and the old
one, which may be stopped or stuck, finds out by itself or is ended later. What the workers say
arrives over HTTP, see `api/internal.py`.
"""

import hashlib
import hmac
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from preftune.errors import PreftuneError
from preftune.files import DISK_ERRORS
from preftune.serving.api.settings import ApiSettings
from preftune.serving.base_models import BaseModels
from preftune.serving.child import Child
from preftune.serving.job_folders import (
    LOG_FILE,
    UnusableJobError,
    WorkerRecord,
    attempt_folder,
    read_worker,
    write_spec,
    write_worker,
)
from preftune.serving.spare import SpareWorker
from preftune.serving.tidying import tidy
from preftune.store import job_leases
from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError
from preftune.store.jobs import Job, any_job
from preftune.store.sweeping import sweep
from preftune.wire.job import Finish, Order, Problem

LOOK_S = 0.5
STALE_S = 60.0  # how long a worker that lost its lease may take to find out
ORPHAN_S = 20.0  # the same for one whose server is gone, and which was asked to leave
SWEEP_S = 60.0
WORKER = "preftune.jobs"  # module that trains

logger = logging.getLogger("preftune.jobs")


@dataclass(kw_only=True, slots=True)
class Worker:
    """A process of ours that has, or had, a job."""

    child: Child
    job_id: str
    fence: int
    lost_s: float | None = None  # since when its lease is no longer its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphan:
    """A worker of a server before this one, still about to leave."""

    job: Job
    record: WorkerRecord
    until_s: float


class Supervisor:
    """The thread that starts workers and watches them."""

    def __init__(
        self,
        database: Database,
        *,
        bases: BaseModels,
        api: ApiSettings,
        module: str = WORKER,
    ) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            database: open, until this has stopped.
            bases: models that jobs begin with.
            api: how many at once, and how patient to be.
            module: that a worker runs; it reads its `Order` from standard input.
        """
        self.database, self.bases, self.api = database, bases, api
        self._spare = SpareWorker(module, api)
        self._secret = secrets.token_bytes(32)
        self._server = ""
        self._workers: list[Worker] = []
        self._orphans: list[Orphan] = []
        self._wake, self._stopping, self._hurry = (threading.Event() for _ in range(3))
        self._stopped: Callable[[], None] = lambda: None
        self._swept_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether jobs are being looked after."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def token(self, job_id: str) -> str:
        """Return the secret with which the worker of a job shows that it is one, 64 hex digits.

        It holds for this job and this start of the server alone.
        """
        return hmac.new(self._secret, job_id.encode(), hashlib.sha256).hexdigest()

    def start(self, server: str) -> None:
        """Begin; workers find the server at this address."""
        self._server = server
        self._thread.start()

    def wake(self) -> None:
        """Look now: a job was made, resumed or cancelled."""
        self._wake.set()

    def stop(self, then: Callable[[], None] = lambda: None) -> None:
        """Ask all workers to leave a checkpoint and go; `then` is called when they are gone.

        Asked a second time, end them at once: their jobs go on from their last checkpoints.
        """
        if self._stopping.is_set():
            self._hurry.set()
        self._stopped = then
        self._stopping.set()
        self.wake()
        if not self._thread.is_alive():
            then()

    def join(self) -> None:
        """Wait until it has stopped."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._carefully(self._adopt)
            while not self._stopping.is_set():
                for work in (self._watch, self._follow_orphans, self._free_expired, self._fill):
                    self._carefully(work)
                self._carefully(self._ready_spare)
                self._carefully(self._sweep_now)
                self._wake.wait(LOOK_S)
                self._wake.clear()
            self._let_leave()
        finally:
            self._spare.close()
            self._stopped()

    def _carefully(self, work: Callable[[], None]) -> None:
        """Do a part of the round; what fails is written down and tried again in the next."""
        try:
            work()
        except (PreftuneError, OSError, TimeoutError):
            logger.exception("looking after jobs failed; trying again")

    def _adopt(self) -> None:
        """Take over the jobs that a server before this one had on this machine."""
        with self.database.read() as db:
            ours = db.dialect.name == "sqlite"  # which has one server at a time
            held = job_leases.held(db)
        for job in held:
            folder = attempt_folder(self.database.files, job.id, job.fence)
            record = read_worker(folder)
            if record is not None and record.runs and not record.server_runs:
                until_s = time.monotonic() + ORPHAN_S
                self._orphans.append(Orphan(job=job, record=record, until_s=until_s))
            elif ours or (record is not None and not record.server_runs):
                self._release(job.id, job.fence, "the server was started again", counts=False)

    def _follow_orphans(self) -> None:
        for orphan in list(self._orphans):
            if orphan.record.runs and time.monotonic() < orphan.until_s:
                continue
            if orphan.record.runs:
                with suppress(ProcessLookupError):
                    os.killpg(orphan.record.pid, signal.SIGKILL)
            job = orphan.job
            self._release(job.id, job.fence, "the server was started again", counts=False)
            self._orphans.remove(orphan)

    def _watch(self) -> None:
        """Set free what ended workers had, and end those whose jobs are no longer theirs."""
        for worker in list(self._workers):
            code = worker.child.poll()
            if code is not None:
                self._release(worker.job_id, worker.fence, _how_it_ended(code))
                self._workers.remove(worker)
                tidy(self.database, worker.job_id)
                self._spare.wanted = True
                continue
            with self.database.read() as db:
                job = any_job(db, worker.job_id)
            if job.fence == worker.fence:
                continue
            worker.lost_s = worker.lost_s or time.monotonic()
            if job.state == "cancelled" or time.monotonic() > worker.lost_s + STALE_S:
                worker.child.kill()

    def _free_expired(self) -> None:
        with self.database.read() as db:
            expired = job_leases.expired(db)
        followed = {orphan.job.id for orphan in self._orphans}
        for job in expired:
            if job.id not in followed:
                self._release(job.id, job.fence, "it was not heard of any more")

    def _fill(self) -> None:
        """Start workers while jobs wait and places are free."""
        busy = sum(worker.lost_s is None for worker in self._workers) + len(self._orphans)
        lease_s = max(self.api.job_start_s, self.api.job_lease_s)
        owner = f"process {os.getpid()}"
        for _ in range(self.api.max_jobs - busy):
            job = self.database.write(lambda db: job_leases.claim(db, owner=owner, lease_s=lease_s))
            if job is None:
                return
            self._start(job)

    def _ready_spare(self) -> None:
        """Have a process ready for the next job: after one has ended, or while others wait."""
        if self._workers and self._spare.is_missing:
            with self.database.read() as db:
                self._spare.wanted |= job_leases.next_waits(db)
        self._spare.prepare()

    def _start(self, job: Job) -> None:
        """Start the worker of a job that was claimed."""
        try:
            with self.database.read() as db:
                spec = write_spec(
                    self.database, db, job, bases=self.bases, api=self.api, server=self._server
                )
            log = (spec.parent / LOG_FILE).resolve()
            order = Order(spec=str(spec.resolve()), log=str(log), secret=self.token(job.id))
            child = self._spare.take(order)
            self._workers.append(Worker(child=child, job_id=job.id, fence=job.fence))
            write_worker(spec.parent, child.pid)
        except UnusableJobError as error:
            self._give_up(job, "failed", problem=error.problem)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            self._give_up(job, "paused", why="the server's disk is full or broken")

    def _give_up(
        self,
        job: Job,
        outcome: Literal["failed", "paused"],
        *,
        problem: Problem | None = None,
        why: str = "",
    ) -> None:
        """End a job that no worker could be started for."""
        last = Finish(fence=job.fence, outcome=outcome, step=job.step, error=problem, why=why)
        with suppress(LostLeaseError):
            self.database.write(lambda db: job_leases.finish(db, job.id, last, now_s=time.time()))

    def _release(self, job_id: str, fence: int, reason: str, *, counts: bool = True) -> None:
        """Set a job free whose worker is gone, unless it had said its last word."""
        with suppress(LostLeaseError):
            self.database.write(
                lambda db: job_leases.release(
                    db, job_id, fence=fence, reason=reason, now_s=time.time(), counts=counts
                )
            )
            logger.warning("job %s, attempt %d: %s", job_id, fence, reason)

    def _sweep_now(self) -> None:
        if time.monotonic() - self._swept_s > SWEEP_S:
            self._swept_s = time.monotonic()
            sweep(self.database, now_s=time.time())

    def _let_leave(self) -> None:
        """Ask all workers to leave; end those that take too long, or all when told to hurry."""
        for worker in self._workers:
            worker.child.ask_to_leave()
        until_s = time.monotonic() + self.api.job_stop_s
        while self._workers:
            late = time.monotonic() > until_s or self._hurry.is_set()
            for worker in list(self._workers):
                if late:
                    worker.child.kill()
                if worker.child.poll() is not None:
                    reason = "the server was stopped"
                    release = partial(self._release, worker.job_id, worker.fence, reason)
                    self._carefully(partial(release, counts=False))
                    self._workers.remove(worker)
            self._hurry.wait(0.05)


def _how_it_ended(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"it ended with exit code {code} and no last word"
    kill = " (often: out of memory)" if code == -signal.SIGKILL else ""
    return f"killed by signal {-code}{kill}"
