"""The job table: what users ask of jobs, and what becomes of them.

A worker holds a job by a lease, see `job_leases.py`; here is all that needs none. Each change of
state is told in the job's history in the same transaction. A job that has ended never changes.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, and_, exists, func, insert, not_, select, update

from preftune.store.job_errors import UnknownJobError, WrongStateError
from preftune.store.job_events import tell
from preftune.store.job_schema import job_metadata, jobs
from preftune.store.pages import Page, page_of, place_of
from preftune.text import visible
from preftune.wire.job import Asked, Event

State = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]
What = Literal["pause", "cancel", "resume"]
WAITING = ("validating_files", "queued")
ENDED = ("succeeded", "failed", "cancelled")
ANY: Mapping[str, str] = MappingProxyType({})  # metadata of any kind


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A job that somebody asks for; its files are there, its settings are valid."""

    project_id: str
    key_id: str | None
    model: str  # as asked: a base, ft:… or a checkpoint
    method: str  # supervised, dpo or reinforcement
    request: dict[str, Any]
    resolved: dict[str, Any]  # hyperparameters, numbers or "auto"
    training_file: str
    validation_file: str | None = None
    seed: int
    suffix: str = ""
    metadata: dict[str, str] | None = None
    state: Literal["validating_files", "queued"] = "queued"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as it stands; times are seconds since 1970."""

    seq: int
    id: str  # ftjob-…
    project_id: str
    key_id: str | None
    model: str
    method: str
    request: dict[str, Any]
    resolved: dict[str, Any]
    training_file: str
    validation_file: str | None
    seed: int
    suffix: str
    metadata: dict[str, str] | None
    state: State
    asked: Asked
    why: str
    attempt: int  # attempts without progress, this one included
    fence: int
    lease_owner: str  # "": nobody has it
    lease_until: float
    step: int  # in the last verified checkpoint
    total_steps: int | None
    claim_step: int
    last_event: int
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_files: tuple[str, ...]
    verdict: dict[str, Any] | None
    error: dict[str, Any] | None  # code, message, param
    created_s: float
    started_s: float | None
    finished_s: float | None
    estimated_finish_s: float | None


JSON = ("request", "resolved", "metadata", "result_files", "verdict", "error")


def create(db: Connection, new: NewJob, *, now_s: float) -> Job:
    """Add a job and return it; it tells "created", and "validated" where nothing is to check."""
    job_id = f"ftjob-{secrets.token_hex(16)}"
    values = {
        **{name: getattr(new, name) for name in NewJob.__slots__},
        "id": job_id,
        "request": encoded(new.request),
        "resolved": encoded(new.resolved),
        "metadata": None if new.metadata is None else encoded(new.metadata),
        "result_files": "[]",
        "created_s": now_s,
        **dict.fromkeys(("asked", "why", "lease_owner"), ""),
        **dict.fromkeys(("attempt", "fence", "step", "claim_step", "last_event"), 0),
        "lease_until": 0.0,
    }
    db.execute(insert(jobs).values(values))
    if new.metadata:
        pairs = new.metadata.items()
        rows = [{"job_id": job_id, "key": key, "value": value} for key, value in pairs]
        db.execute(insert(job_metadata), rows)
    events = [said("created", f"Created fine-tuning job: {job_id}", now_s)]
    if new.state == "validating_files":
        events.append(said("validating", f"Validating file: {new.training_file}", now_s))
    else:
        events.append(said("validated", "The files are valid; the job waits its turn", now_s))
    tell(db, job_id, events)
    return any_job(db, job_id)


def job(db: Connection, project_id: str, job_id: str) -> Job:
    """Return a job of a project.

    Raises:
        UnknownJobError: the project has none of this id; another's are not told apart from none.
    """
    mine = and_(jobs.c.id == job_id, jobs.c.project_id == project_id)
    row = db.execute(select(jobs).where(mine)).one_or_none()
    if row is None:
        raise UnknownJobError(f"Could not find fine tune: {visible(job_id)}")
    return as_job(row)


def any_job(db: Connection, job_id: str) -> Job:
    """Return a job of any project: for the server itself, never for a request of a client.

    Raises:
        UnknownJobError: there is none of this id.
    """
    row = db.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise UnknownJobError(f"Could not find fine tune: {visible(job_id)}")
    return as_job(row)


def jobs_of(
    db: Connection,
    project_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    metadata: Mapping[str, str] | None = ANY,
) -> Page[Job]:
    """Return the jobs of a project, the newest first.

    Args:
        db: a connection.
        project_id: whose jobs.
        after: id of the last job that was shown before.
        limit: rows at most.
        metadata: pairs that a job must have all of; None: only jobs that have no pair.

    Raises:
        UnknownCursorError: the project has no job `after`.
    """
    mine = jobs.c.project_id == project_id
    query = select(jobs).where(mine).order_by(jobs.c.seq.desc())
    of_job = exists().where(job_metadata.c.job_id == jobs.c.id)
    if metadata is None:
        query = query.where(not_(of_job))
    for key, value in (metadata or {}).items():
        query = query.where(of_job.where(job_metadata.c.key == key, job_metadata.c.value == value))
    if after is not None:
        place = place_of(db, jobs.c.seq, and_(mine, jobs.c.id == after), after)
        query = query.where(jobs.c.seq < place)
    return page_of(db, query, limit, as_job)


def unended(db: Connection, project_id: str) -> list[Job]:
    """Return the jobs of a project that have not ended, the oldest first."""
    going = and_(jobs.c.project_id == project_id, jobs.c.state.not_in(ENDED))
    return [as_job(row) for row in db.execute(select(jobs).where(going).order_by(jobs.c.seq))]


def count_by_state(db: Connection) -> dict[State, int]:
    """Return how many jobs of all projects are in each state; states without any are left out."""
    rows = db.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
    return {row[0]: row[1] for row in rows}


def count_waiting(db: Connection, project_id: str) -> int:
    """Return how many jobs of a project wait for their turn, or are in a worker's first look."""
    mine = and_(jobs.c.project_id == project_id, jobs.c.state.in_(WAITING))
    return db.execute(select(func.count()).where(mine)).scalar_one()


def ask(db: Connection, project_id: str, job_id: str, what: What, *, now_s: float) -> Job:
    """Do what a user asks of a job, and return it as it is then.

    Cancelling holds at once: the fence is raised, and a worker who has the job can publish nothing
    more. A pause holds at once where nobody has the job; else `asked` is "pause" until the worker
    has left a checkpoint, or has gone.

    Raises:
        UnknownJobError: the project has no such job.
        WrongStateError: it cannot do this as it stands; nothing was changed.
    """
    mine = and_(jobs.c.id == job_id, jobs.c.project_id == project_id)
    row = db.execute(select(jobs).where(mine).with_for_update()).one_or_none()
    if row is None:
        raise UnknownJobError(f"Could not find fine tune: {visible(job_id)}")
    before = as_job(row)
    _check(before, what)
    if what == "cancel":
        return leave(db, before, "cancelled", [_said_once(before, "cancelled", now_s)], now_s=now_s)
    if what == "resume":
        return leave(db, before, "queued", [_said_once(before, "resumed", now_s)], now_s=now_s)
    if before.lease_owner:
        return change(db, job_id, asked="pause")
    return leave(db, before, "paused", [_said_once(before, "paused", now_s)], now_s=now_s)


def leave(
    db: Connection,
    before: Job,
    state: State,
    events: Sequence[Event],
    *,
    now_s: float,
    **values: Any,
) -> Job:
    """Let nobody have a job, in this state from now on, and return it.

    The fence is raised: whoever had it is refused from now on. For this package alone.
    """
    free = {
        "state": state,
        "asked": "",
        "why": "",
        "fence": before.fence + 1,
        "lease_owner": "",
        "lease_until": 0.0,
        "estimated_finish_s": None,
        "finished_s": now_s if state in ENDED else None,
    }
    tell(db, before.id, events)
    return change(db, before.id, **{**free, **values})


def change(db: Connection, job_id: str, **values: Any) -> Job:
    """Change columns of a job and return it. For this package alone."""
    given = {
        name: encoded(value) if name in JSON and value is not None else value
        for name, value in values.items()
    }
    changed = update(jobs).where(jobs.c.id == job_id).values(given).returning(jobs)
    return as_job(db.execute(changed).one())


def said(
    key: str,
    message: str,
    now_s: float,
    *,
    level: Literal["info", "warn", "error"] = "info",
    data: dict[str, Any] | None = None,
) -> Event:
    """Return an event of the server's own."""
    return Event(key=key, message=message, level=level, data=data, created_s=now_s)


def encoded(value: Any) -> str:
    """Return JSON text."""
    return msgspec.json.encode(value).decode()


def as_job(row: Row[Any]) -> Job:
    """Return the record of a row."""
    fields = row._asdict()
    for name in JSON:
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(fields[name])
    fields["result_files"] = tuple(fields["result_files"])
    return Job(**fields)


def _check(before: Job, what: What) -> None:
    """Refuse what a job cannot do as it stands."""
    allowed = {
        "pause": (*WAITING, "running"),
        "resume": ("paused",),
        "cancel": (*WAITING, "running", "paused"),
    }
    if before.state in allowed[what]:
        return
    done = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}[what]
    which = " or ".join(allowed[what])
    raise WrongStateError(
        f"Job {before.id} is {before.state} and cannot be {done}: only a job that is {which} can."
    )


def _said_once(before: Job, what: str, now_s: float) -> Event:
    """Return the event of a change that can come more than once, each under its own fence."""
    messages = {
        "cancelled": "The job was cancelled",
        "resumed": f"The job was resumed; it goes on from step {before.step}",
        "paused": f"The job is paused at step {before.step}",
    }
    return said(f"{what}-{before.fence}", messages[what], now_s)
