"""Pages of jobs, models, files and keys, for the leads of a project. Raters get 404 on each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import Response

from preftune.serving import file_pages, key_pages, model_pages
from preftune.serving.auth import lead_of
from preftune.serving.curves import MOST_POINTS, Chart, Row, beside, charts, thinned
from preftune.serving.job_frame import At, Desk, at_utc
from preftune.serving.job_view import (
    Line,
    Made,
    Progress,
    Trouble,
    Verdict,
    line,
    made,
    pretty,
    progress_of,
    trouble_of,
    used,
    verdict_of,
)
from preftune.serving.lead_payload import LARGEST, Done
from preftune.serving.supervisor import Supervisor
from preftune.serving.web import Nothing
from preftune.store.job_errors import UnknownJobError
from preftune.store.job_events import StoredEvent, events_of, events_since
from preftune.store.jobs import Job, ask, job, jobs_of
from preftune.store.pages import Page
from preftune.store.tuned_models import checkpoints_of

router = APIRouter(prefix="/p/{project_id}", tags=["jobs"], dependencies=[Depends(lead_of)])
JOBS = 20  # on a page
EVENTS = 4000  # in one answer; the page asks on
LAST = 5  # events looked at for the step of a job
CHECKPOINTS = 200
COMPARED, BESIDE = 8, 3  # jobs whose curves are shown together: at most, and unasked

JobName = Annotated[str, Field(max_length=64)]
JobId = Annotated[str, Path(max_length=64)]
Cursor = Annotated[str, Query(max_length=64)]
Chosen = Annotated[list[JobName] | None, Query(alias="job", max_length=COMPARED)]
Wish = Literal["pause", "resume", "cancel"]
HEARD = {  # by what the job is asked, or how it is then
    "pause": "The job pauses after its next checkpoint.",
    "paused": "The job is paused.",
    "queued": "The job waits for its turn and goes on where it stopped.",
    "cancelled": "The job is cancelled.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    """What the page of a job shows of this moment, and what it lacks: events and figures."""

    progress: Progress
    why: str
    error: Trouble | None
    model: str | None
    results: tuple[str, ...]
    verdict: Verdict | None
    used: dict[str, str]
    checkpoints: list[Made]
    events: list[Line]
    charts: tuple[Chart, ...]
    seq: int  # of the last event told
    more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Charts of several jobs."""

    charts: tuple[Chart, ...]
    lives: bool


@router.get("/jobs", include_in_schema=False)
def jobs_page(at: At, after: Cursor = "") -> Response:
    """Show the jobs, the newest first."""
    found, rows = _jobs(at, after)
    more = found.data[-1].id if found.has_more else ""
    return at.page("jobs.html.jinja", rows=rows, after=after, more=more, url=at.url)


@router.get("/jobs/now")
def jobs_now(at: At, after: Cursor = "") -> dict[str, Progress]:
    """Return where each job of a page of the list stands, by its id."""
    return {one.id: progress for one, progress in _jobs(at, after)[1]}


@router.get("/jobs/{job_id}", include_in_schema=False)
def job_page(at: At, job_id: JobId) -> Response:
    """Show one job; what changes is fetched by the page."""
    with at.database.read() as db:
        found = _found(db, at, job_id)
        progress = progress_of(found, step=_step(db, found), now_s=time.time())
        names = tuple(
            file_pages.name_of(db, at.project_id, file_id)
            for file_id in (found.training_file, found.validation_file)
        )
    return at.page(
        "job.html.jinja",
        job=found,
        here=f"{at.base}/jobs/{found.id}",
        progress=progress,
        files=names,
        settings=used(found),
        metadata=sorted((found.metadata or {}).items()),
        documents=[("All that was asked", pretty(found.request))],
    )


@router.get("/jobs/{job_id}/now")
def job_now(at: At, job_id: JobId, seq: Annotated[int, Query(ge=0, le=LARGEST)] = 0) -> Now:
    """Return where a job stands, with the events and figures behind event `seq`."""
    with at.database.read() as db:
        found = _found(db, at, job_id)
        new = events_since(db, at.project_id, job_id, seq=seq, limit=EVENTS)
        checkpoints = checkpoints_of(db, at.project_id, job_id, limit=CHECKPOINTS)
        progress = progress_of(found, step=_step(db, found), now_s=time.time())
    last = new[-1].seq if new else seq
    return Now(
        progress=progress,
        why=found.why,
        error=trouble_of(found),
        model=found.fine_tuned_model,
        results=found.result_files,
        verdict=verdict_of(found),
        used={one.name: one.used for one in used(found)},
        checkpoints=[made(one) for one in checkpoints.data],
        events=[line(one, at_utc(one.created_s)) for one in new if one.type != "metrics"],
        charts=charts(_figures(new, of=found.last_event)),
        seq=last,
        more=last < found.last_event,
    )


@router.post("/jobs/{job_id}/{wish}")
def ask_of_job(at: At, job_id: JobId, wish: Wish, _: Nothing) -> Done:
    """Pause, resume or cancel a job."""
    with at.database.read() as db:
        _found(db, at, job_id)
    then = at.database.write(lambda db: ask(db, at.project_id, job_id, wish, now_s=time.time()))
    supervisor: Supervisor = at.request.app.state.supervisor
    supervisor.wake()
    return Done(message=HEARD[then.state if then.state in HEARD else then.asked])


@router.get("/runs", include_in_schema=False)
def runs_page(at: At, chosen: Chosen = None) -> Response:
    """Show the curves of several jobs over each other; the newest, when none is chosen."""
    with at.database.read() as db:
        found = list(jobs_of(db, at.project_id, limit=JOBS).data)
        listed = {one.id for one in found}
        found += [_found(db, at, one) for one in chosen or () if one not in listed]
    picked = chosen or [one.id for one in found if one.step or one.total_steps][:BESIDE]
    return at.page("runs.html.jinja", jobs=found, picked=picked, most=COMPARED)


@router.get("/runs/curves")
def runs_curves(at: At, chosen: Chosen = None) -> Curves:
    """Return the charts of some jobs."""
    with at.database.read() as db:
        found = [_found(db, at, one) for one in dict.fromkeys(chosen or ())]
        rows = {_name(one): _all_figures(db, one) for one in found}
    lives = any(progress_of(one, step=0, now_s=0.0).lives for one in found)
    return Curves(charts=beside(rows), lives=lives)


for part in (model_pages.router, file_pages.router, key_pages.router):
    router.include_router(part)


def _jobs(at: Desk, after: str) -> tuple[Page[Job], list[tuple[Job, Progress]]]:
    """Return a page of the list, and each of its jobs with where it stands."""
    now_s = time.time()
    with at.database.read() as db:
        found = jobs_of(db, at.project_id, after=after or None, limit=JOBS)
        rows = [(one, progress_of(one, step=_step(db, one), now_s=now_s)) for one in found.data]
    return found, rows


def _found(db: Connection, at: Desk, job_id: str) -> Job:
    try:
        return job(db, at.project_id, job_id)
    except UnknownJobError as error:
        raise HTTPException(404) from error


def _step(db: Connection, of: Job) -> int:
    """Return the last step that a job told of; checkpoints are further apart."""
    if of.state != "running":
        return of.step
    last = events_of(db, of.project_id, of.id, limit=LAST).data
    return max((one.data["step"] for one in last if one.type == "metrics" and one.data), default=0)


def _figures(events: Sequence[StoredEvent], *, of: int) -> list[Row]:
    """Return the figures of events, as many as a screen can show of a history `of` lines long."""
    told = [one.data for one in events if one.type == "metrics" and one.data]
    return thinned(told, every=max(1, of // MOST_POINTS))


def _all_figures(db: Connection, of: Job) -> list[Row]:
    found: list[StoredEvent] = []
    while len(found) < of.last_event:
        new = events_since(db, of.project_id, of.id, seq=len(found), limit=EVENTS)
        if not new:
            break
        found += new
    return _figures(found, of=of.last_event)


def _name(of: Job) -> str:
    """Return what a job is called beside others; the end of its id tells two of one name apart."""
    return f"{of.suffix or 'job'} {of.id[-6:]}"
