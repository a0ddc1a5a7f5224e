"""Jobs of fine-tuning: make them, follow them, stop them and let them go on."""

import asyncio
import time
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from preftune.serving.api.access import Caller, require
from preftune.serving.api.bodies import api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.job_answers import checkpoint_answer, event_answer, job_answer
from preftune.serving.api.job_desk import JobDesk
from preftune.serving.api.jobs_bodies import (
    CheckpointAnswer,
    EventAnswer,
    JobAnswer,
    JobRequest,
)
from preftune.serving.api.once import OnceKey
from preftune.serving.api.paging import (
    After,
    Limit,
    Listed,
    ListedWithEnds,
    listed,
    listed_with_ends,
)
from preftune.store import jobs
from preftune.store.job_events import events_of
from preftune.store.tuned_models import checkpoints_of

PAUSE_S = 20.0  # how long an answer to "pause" waits for the worker's checkpoint
POLL_S = 0.1
METADATA = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    "description": "metadata[key]=value: jobs that have the pair; metadata=null: jobs without any.",
}

router = api_router()


def desk_to_read(
    request: Request, caller: Annotated[Caller, Depends(require("jobs:read"))]
) -> JobDesk:
    """Return the jobs of whoever asks, to look at."""
    return JobDesk.of(request, caller)


def desk_to_write(
    request: Request, caller: Annotated[Caller, Depends(require("jobs:write"))]
) -> JobDesk:
    """Return the jobs of whoever asks, to change."""
    return JobDesk.of(request, caller)


Reading = Annotated[JobDesk, Depends(desk_to_read)]
Writing = Annotated[JobDesk, Depends(desk_to_write)]


@router.post("/v1/fine_tuning/jobs", response_model=JobAnswer, tags=["jobs"])
def create_job(sent: JobRequest, at: Writing, once: OnceKey) -> Response:
    """Make a job. All that can be checked now is checked; small files are, row by row."""
    before = once.replay()
    if before is not None:
        return before
    new = at.checked(sent)
    answer = once.write(lambda db: job_answer(at.make(db, new, sent), at.api))
    at.supervisor.wake()
    return answer


@router.get("/v1/fine_tuning/jobs", tags=["jobs"], openapi_extra={"parameters": [METADATA]})
def list_jobs(
    request: Request, at: Reading, after: After = None, limit: Limit = 20
) -> Listed[JobAnswer]:
    """Return the jobs of the project, the newest first."""
    wanted = _metadata(request)
    page = at.read(
        lambda db: jobs.jobs_of(db, at.project_id, after=after, limit=limit, metadata=wanted)
    )
    return listed([job_answer(one, at.api) for one in page.data], page)


@router.get("/v1/fine_tuning/jobs/{job_id}", tags=["jobs"])
def retrieve_job(job_id: str, at: Reading) -> JobAnswer:
    """Return a job as it stands."""
    return job_answer(at.job(job_id), at.api)


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel", tags=["jobs"])
def cancel_job(job_id: str, at: Writing) -> JobAnswer:
    """End a job at once; its checkpoints stay."""
    job = at.ask(job_id, "cancel")
    at.supervisor.wake()
    return job_answer(job, at.api)


@router.post("/v1/fine_tuning/jobs/{job_id}/pause", tags=["jobs"])
async def pause_job(job_id: str, at: Writing) -> JobAnswer:
    """Let a job leave a checkpoint and rest; a step that takes long is answered with `running`."""
    job = await run_in_threadpool(at.ask, job_id, "pause")
    until_s = time.monotonic() + PAUSE_S
    while job.asked == "pause" and time.monotonic() < until_s:
        await asyncio.sleep(POLL_S)
        job = await run_in_threadpool(at.job, job_id)
    return job_answer(job, at.api)


@router.post("/v1/fine_tuning/jobs/{job_id}/resume", tags=["jobs"])
def resume_job(job_id: str, at: Writing) -> JobAnswer:
    """Let a paused job go on with its next step."""
    job = at.ask(job_id, "resume")
    at.supervisor.wake()
    return job_answer(job, at.api)


@router.get("/v1/fine_tuning/jobs/{job_id}/events", tags=["jobs"])
def list_events(
    job_id: str, at: Reading, after: After = None, limit: Limit = 20
) -> Listed[EventAnswer]:
    """Return the history of a job, the newest line first; each step has one line of metrics."""
    at.job(job_id)
    page = at.read(lambda db: events_of(db, at.project_id, job_id, after=after, limit=limit))
    return listed([event_answer(one) for one in page.data], page)


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", tags=["jobs"])
def list_checkpoints(
    job_id: str, at: Reading, after: After = None, limit: Limit = 10
) -> ListedWithEnds[CheckpointAnswer]:
    """Return the models that a job has left so far, the highest step first; each answers chats."""
    at.job(job_id)
    page = at.read(lambda db: checkpoints_of(db, at.project_id, job_id, after=after, limit=limit))
    data = [checkpoint_answer(one) for one in page.data]
    return listed_with_ends(data, page, [one.id for one in data])


@router.get("/v1/fine_tuning/checkpoints/{model:path}/permissions", tags=["jobs"])
def list_permissions(model: str, _at: Reading) -> None:
    """Refuse: there is one organisation, so nobody to share a checkpoint with."""
    raise _one_organisation(model)


@router.post("/v1/fine_tuning/checkpoints/{model:path}/permissions", tags=["jobs"])
def create_permission(model: str, _at: Writing) -> None:
    """Refuse, as above."""
    raise _one_organisation(model)


@router.delete(
    "/v1/fine_tuning/checkpoints/{model:path}/permissions/{permission_id}", tags=["jobs"]
)
def delete_permission(model: str, permission_id: str, _at: Writing) -> None:
    """Refuse, as above."""
    raise _one_organisation(model, permission_id)


def _one_organisation(*_names: str) -> ApiError:
    return ApiError(
        403,
        "This server belongs to one organisation: there is nobody to share a checkpoint with. "
        "Make a key for whoever should use it.",
        code="single_organization",
    )


def _metadata(request: Request) -> dict[str, str] | None:
    """Return the pairs that jobs must have; None: none at all.

    Raises:
        ApiError: 400, neither `metadata[key]=value` nor `metadata=null`.
    """
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            if value != "null":
                raise ApiError(400, "Give metadata[key]=value, or metadata=null.", param="metadata")
            return None
        if name.startswith("metadata[") and name.endswith("]"):
            pairs[name.removeprefix("metadata[").removesuffix("]")] = value
    return pairs
