"""Who works on a job: leases with fences, so that of two workers only the later one is heard.

A claim raises the job's fence, and all that its worker says carries it. Once the fence is higher
the worker is refused and has changed nothing. Attempts count only where they brought no progress.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, ScalarSelect, case, exists, func, select, update

from preftune.store.clock import lease_ended, lease_now, owner_here
from preftune.store.job_errors import LostLeaseError
from preftune.store.job_events import tell
from preftune.store.job_schema import jobs
from preftune.store.jobs import ENDED, WAITING, Job, State, as_job, change, leave, said
from preftune.store.tuned_models import TunedModel, model_name, new_checkpoint_id, publish
from preftune.wire.job import Asked, Beat, Checkpoint, Event, Finish, Started

ATTEMPTS = 3  # without progress, before a job has failed


def claim(db: Connection, *, owner: str, lease_s: float) -> Job | None:
    """Take the job whose turn it is, under a new fence; None where none waits.

    Also None where another server takes that job at this moment: ask again.

    The project of which the fewest jobs are worked on comes first, of equal ones the project whose
    last job began the longest ago; each project's jobs come in the order they were made.

    Args:
        db: a connection that writes.
        owner: who takes it; kept with the lease, and shown to operators.
        lease_s: how long it stays taken without a beat.
    """
    free = jobs.c.state.in_(WAITING) & (jobs.c.lease_owner == "")
    firsts = select(func.min(jobs.c.seq)).where(free).group_by(jobs.c.project_id)
    first = free & jobs.c.seq.in_(firsts.correlate(None))
    turn = select(jobs.c.seq).where(first).order_by(*_turns(), jobs.c.seq).limit(1)
    taken = (
        update(jobs)
        .where(jobs.c.seq == turn.with_for_update(skip_locked=True, of=jobs).scalar_subquery())
        .values(
            fence=jobs.c.fence + 1,
            lease_owner=owner_here(db, owner),
            lease_until=lease_now(db) + lease_s,
            attempt=case((jobs.c.step > jobs.c.claim_step, 1), else_=jobs.c.attempt + 1),
            claim_step=jobs.c.step,
        )
    )
    row = db.execute(taken.returning(jobs)).one_or_none()
    return None if row is None else as_job(row)


def _turns() -> tuple[ScalarSelect[Any], ColumnElement[Any]]:
    """Return how many jobs of a job's project are worked on, and when its last one began."""
    other = jobs.alias()
    mine = other.c.project_id == jobs.c.project_id
    taken = mine & other.c.state.not_in(ENDED) & (other.c.lease_owner != "")
    busy = select(func.count()).select_from(other).where(taken)
    began = select(other.c.started_s).where(mine, other.c.started_s.is_not(None))
    last = began.order_by(other.c.seq.desc()).limit(1)
    return (
        busy.correlate(jobs).scalar_subquery(),
        func.coalesce(last.correlate(jobs).scalar_subquery(), 0.0),
    )


def beat(db: Connection, job_id: str, message: Beat, *, lease_s: float) -> Asked:
    """Extend a lease, note how far the job is, and return what its worker is asked to do.

    Raises:
        LostLeaseError: the fence is no longer current.
    """
    job = by_worker(db, job_id, fence=message.fence)
    total = job.total_steps if message.total_steps is None else message.total_steps
    return change(
        db,
        job_id,
        lease_until=lease_now(db) + lease_s,
        step=max(job.step, message.step),
        total_steps=total,
        estimated_finish_s=message.estimated_finish_s,
    ).asked


def started(db: Connection, job_id: str, message: Started, *, now_s: float) -> Job:
    """Note that training begins, with these numbers; tells "validated" and "started".

    Raises:
        LostLeaseError: the fence is no longer current.
    """
    job = by_worker(db, job_id, fence=message.fence)
    valid = said("validated", "The files are valid", now_s)
    tell(db, job_id, [valid, said("started", "Fine-tuning job started", now_s)])
    return change(
        db,
        job_id,
        state="running",
        resolved=message.hyperparameters,
        total_steps=message.total_steps,
        started_s=job.started_s or now_s,
    )


def checkpoint(
    db: Connection,
    job_id: str,
    message: Checkpoint,
    *,
    folder: str,
    base_name: str,
    organization: str = "preftune",
    now_s: float,
) -> str:
    """Publish a checkpoint that can answer requests, and return its name; told again, the same.

    Args:
        db: a connection that writes.
        job_id: whose checkpoint.
        message: the worker's.
        folder: of the model, within the store's files.
        base_name: of the base model that all of its training began with.
        organization: part of the name.
        now_s: seconds since 1970.

    Raises:
        LostLeaseError: the fence is no longer current.
    """
    job = by_worker(db, job_id, fence=message.fence)
    change(db, job_id, step=max(job.step, message.step))
    name = model_name(base_name, organization, job.suffix, step=message.step)
    made = _model(job, message, name=name, base=base_name, folder=folder, final=False, now_s=now_s)
    kept = publish(db, made)
    text = f"New checkpoint created: {kept}"
    about = {"step": message.step, "fine_tuned_model_checkpoint": kept}
    tell(db, job_id, [said(f"checkpoint-{message.step}", text, now_s, data=about)])
    return kept


def finish(
    db: Connection,
    job_id: str,
    message: Finish,
    *,
    now_s: float,
    folder: str = "",
    base_name: str = "",
    organization: str = "preftune",
    result_files: tuple[str, ...] = (),
) -> Job:
    """Do what the last word of a worker says, and return the job.

    It has succeeded, failed, or is paused; or it waits again, when the worker was told to leave.
    An attempt that ends in order does not count as one without progress.

    Args:
        db: a connection that writes.
        job_id: which job.
        message: the worker's.
        now_s: seconds since 1970.
        folder: of the final model, within the store's files; for a job that succeeded.
        base_name: as `checkpoint` takes it.
        organization: as `checkpoint` takes it.
        result_files: ids of the files that a job that succeeded leaves.

    Raises:
        LostLeaseError: the fence is no longer current, or the last word was heard before.
    """
    job = by_worker(db, job_id, fence=message.fence)
    job = change(db, job_id, step=max(job.step, message.step), attempt=job.attempt - 1)
    if message.outcome == "succeeded":
        name = model_name(base_name, organization, job.suffix, step=None)
        made = _model(
            job, message, name=name, base=base_name, folder=folder, final=True, now_s=now_s
        )
        values = {
            "fine_tuned_model": publish(db, made),
            "trained_tokens": message.trained_tokens,
            "result_files": result_files,
            "verdict": message.verdict,
        }
        return leave(db, job, "succeeded", _successes(values, now_s), now_s=now_s, **values)
    if message.outcome == "failed":
        return _fail(db, job, message, now_s=now_s)
    if message.outcome == "cancelled":
        cancelled = said(f"cancelled-{job.fence}", "The job was cancelled", now_s)
        return leave(db, job, "cancelled", [cancelled], now_s=now_s)
    if message.outcome == "paused" or job.asked == "pause":
        return _pause(db, job, message.why, now_s=now_s)
    text = f"The training process was told to leave; the job goes on from step {job.step}"
    stopped = said(f"stopped-{job.fence}", text, now_s)
    return leave(db, job, "queued", [stopped], now_s=now_s)


def release(
    db: Connection, job_id: str, *, fence: int, reason: str, now_s: float, counts: bool = True
) -> Job:
    """Note that the worker of a job is gone without a last word, and return the job.

    It waits again; or is paused, where that was asked; or has failed, after three attempts without
    progress.

    Args:
        db: a connection that writes.
        job_id: which job.
        fence: of the worker that is gone.
        reason: such as "killed by signal 9"; shown to the user.
        now_s: seconds since 1970.
        counts: as an attempt; False where the job cannot have been at fault, such as after the
            server itself was killed.

    Raises:
        LostLeaseError: somebody else has the job already, or it has ended.
    """
    job = by_worker(db, job_id, fence=fence)
    if not counts:
        job = change(db, job_id, attempt=job.attempt - 1)
    if job.asked == "pause":
        return _pause(db, job, "", now_s=now_s)
    if job.attempt < ATTEMPTS or job.step > job.claim_step:
        text = f"The training process is gone ({reason}); the job goes on from step {job.step}"
        gone = said(f"released-{job.fence}", text, now_s, level="warn")
        return leave(db, job, "queued", [gone], now_s=now_s)
    problem = {
        "code": "server_error",
        "message": (
            f"The training process ended {ATTEMPTS} times without getting past step {job.step}; "
            f"the last time: {reason}. In case memory ran out, try a smaller batch_size or shorter "
            "rows; in case the machine was too busy, try again later. The server's operator finds "
            "the whole story in the job's log."
        ),
        "param": None,
    }
    return leave(db, job, "failed", [_failure(problem, now_s)], now_s=now_s, error=problem)


def expired(db: Connection) -> list[Job]:
    """Return the jobs whose workers have not been heard of for too long: `release` them."""
    gone = lease_ended(db, jobs.c.lease_owner, jobs.c.lease_until)
    query = select(jobs).where(jobs.c.lease_owner != "", gone).order_by(jobs.c.seq)
    return [as_job(row) for row in db.execute(query).all()]


def next_waits(db: Connection) -> bool:
    """Return whether a job waits while all that workers have are training already."""
    starting = exists().where(jobs.c.lease_owner != "", jobs.c.state.in_(WAITING))
    waiting = exists().where(jobs.c.lease_owner == "", jobs.c.state.in_(WAITING))
    return bool(db.scalar(select(waiting & ~starting)))


def held(db: Connection) -> list[Job]:
    """Return the jobs that workers have, heard of or not."""
    query = select(jobs).where(jobs.c.lease_owner != "").order_by(jobs.c.seq)
    return [as_job(row) for row in db.execute(query).all()]


def begin_anew(db: Connection, *, now_s: float) -> int:
    """Let the jobs that had not ended begin at step 0, nobody having them; return how many.

    For a restored store: a backup holds models, and not what training would go on from. Equal
    seeds give equal steps, so that their events and models are told once all the same.
    """
    query = select(jobs).where(jobs.c.state.not_in(ENDED)).order_by(jobs.c.seq)
    found = [as_job(row) for row in db.execute(query).all()]
    for job in found:
        text = "The server was restored from a backup; the job begins at its first step again"
        anew = said(f"restored-{job.fence}", text, now_s, level="warn")
        state: State = "paused" if job.state == "paused" else "queued"
        leave(db, job, state, [anew], now_s=now_s, step=0, claim_step=0, attempt=0)
    return len(found)


def by_worker(db: Connection, job_id: str, *, fence: int) -> Job:
    """Return a job to the worker who holds it; it stays so until the transaction ends.

    Raises:
        LostLeaseError: the fence is no longer current.
    """
    query = select(jobs).where(jobs.c.id == job_id).with_for_update()
    row = db.execute(query).one_or_none()
    if row is None or row.fence != fence or not row.lease_owner:
        raise LostLeaseError(f"job {job_id}: lease {fence} has ended. Leave the job.")
    return as_job(row)


def _pause(db: Connection, job: Job, why: str, *, now_s: float) -> Job:
    text = f"The job is paused at step {job.step}" + (f": {why}" if why else "")
    paused = said(f"paused-{job.fence}", text, now_s, level="warn" if why else "info")
    return leave(db, job, "paused", [paused], now_s=now_s, why=why[:200])


def _fail(db: Connection, job: Job, message: Finish, *, now_s: float) -> Job:
    told = message.error
    problem = {
        "code": told.code if told else "server_error",
        "message": told.message if told else "The training process gave no reason.",
        "param": told.param if told else None,
    }
    values = {"error": problem, "verdict": message.verdict}
    return leave(db, job, "failed", [_failure(problem, now_s)], now_s=now_s, **values)


def _failure(problem: dict[str, Any], now_s: float) -> Event:
    return said("failed", f"The job failed: {problem['message']}", now_s, level="error")


def _successes(values: dict[str, Any], now_s: float) -> list[Event]:
    made = f"New fine-tuned model created: {values['fine_tuned_model']}"
    done = "The job has successfully completed"
    return [said("model", made, now_s), said("succeeded", done, now_s)]


def _model(
    job: Job,
    message: Checkpoint | Finish,
    *,
    name: str,
    base: str,
    folder: str,
    final: bool,
    now_s: float,
) -> TunedModel:
    return TunedModel(
        name=name,
        checkpoint_id=new_checkpoint_id(),
        project_id=job.project_id,
        job_id=job.id,
        base=base,
        step=message.step,
        final=final,
        folder=folder,
        manifest_hash=message.manifest_hash,
        metrics=message.metrics,
        created_s=now_s,
    )
