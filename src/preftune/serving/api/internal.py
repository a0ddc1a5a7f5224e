"""What the workers of this server tell it: see `wire/job.py`.

A worker shows the secret of its job, and speaks from this machine. Whatever it may not do any more
is answered with 410: it leaves without another word, and nothing was changed.
"""

import base64
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from fastapi import APIRouter
from msgspec import Struct
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from preftune.files import sha256_of
from preftune.serving.api.settings import ApiSettings
from preftune.serving.base_models import BaseModels, find_model
from preftune.serving.job_folders import attempt_folder
from preftune.serving.supervisor import Supervisor
from preftune.store import job_events, job_leases
from preftune.store.api_files import add_file
from preftune.store.blobs import Content, incoming
from preftune.store.database import Database
from preftune.store.job_errors import LostLeaseError, UnknownJobError
from preftune.store.jobs import Job
from preftune.wire.job import LOST, Beat, Beaten, Checkpoint, Events, Finish, Named, Started

MANIFEST = "MANIFEST.json"
RESULT = "step_metrics.csv"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
M = TypeVar("M", bound=Struct)

router = APIRouter(prefix="/internal/jobs/{job_id}", include_in_schema=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """Where a worker reports: the store, the server's settings, and the job it speaks of."""

    database: Database
    api: ApiSettings
    bases: BaseModels
    job_id: str

    def path(self, fence: int, name: str) -> Path:
        """Return a file or folder that a worker names.

        Raises:
            HTTPException: 400, it lies outside of the attempt's own folder.
        """
        attempt = attempt_folder(self.database.files, self.job_id, fence).resolve()
        path = (attempt / name).resolve()
        if attempt not in path.parents:
            raise HTTPException(400, f"{name}: lies outside of this attempt.")
        return path

    def model(self, message: Checkpoint | Finish) -> str:
        """Return the folder of a model that a worker has left, within the store's files.

        Raises:
            HTTPException: 400, it lies elsewhere, or its manifest is not the one that was told.
        """
        folder = self.path(message.fence, message.folder)
        manifest = folder / MANIFEST
        if not manifest.is_file() or sha256_of(manifest) != message.manifest_hash:
            raise HTTPException(400, f"{message.folder}: holds no model with this manifest.")
        return str(folder.relative_to(self.database.files.resolve()))

    def base_name(self, db: Connection, job: Job) -> str:
        """Return the name of the base that all of the job's training began with."""
        found = find_model(db, self.bases, job.project_id, job.model, files=self.database.files)
        return found.base_name if found else job.model.removeprefix("ft:").partition(":")[0]


@router.post("/beat")
async def beat(request: Request, job_id: str) -> Response:
    """Hear that a worker is there, and say what it is asked to do."""
    return await _heard(request, job_id, Beat, _beat)


@router.post("/events")
async def events(request: Request, job_id: str) -> Response:
    """Add to the job's history what is not in it yet."""
    return await _heard(request, job_id, Events, _events)


@router.post("/started")
async def started(request: Request, job_id: str) -> Response:
    """Note that training begins."""
    return await _heard(request, job_id, Started, _started)


@router.post("/checkpoint")
async def checkpoint(request: Request, job_id: str) -> Response:
    """Publish a model that the worker has left."""
    return await _heard(request, job_id, Checkpoint, _checkpoint)


@router.post("/finish")
async def finish(request: Request, job_id: str) -> Response:
    """Hear the worker's last word."""
    return await _heard(request, job_id, Finish, _finish)


async def _heard(
    request: Request, job_id: str, kind: type[M], act: Callable[[Desk, M], Struct | None]
) -> Response:
    """Answer a worker: what `act` returns, or 410 where the job is no longer its own."""
    state = request.app.state
    supervisor: Supervisor = state.supervisor
    if request.client is None or request.client.host not in LOOPBACK:
        raise HTTPException(404)
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(sent.encode(), supervisor.token(job_id).encode()):
        raise HTTPException(LOST, "This secret is of another job, or of a server before this one.")
    try:
        message = msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise HTTPException(400, f"{kind.__name__}: {error}") from error
    desk = Desk(database=state.database, api=state.api, bases=state.base_models, job_id=job_id)
    try:
        answer = await run_in_threadpool(act, desk, message)
    except (LostLeaseError, UnknownJobError) as error:
        raise HTTPException(LOST, str(error)) from error
    except OSError as error:
        raise HTTPException(507, f"The server cannot write: {error.strerror}.") from error
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _beat(desk: Desk, message: Beat) -> Beaten:
    lease_s = desk.api.job_lease_s
    write = desk.database.write
    asked = write(lambda db: job_leases.beat(db, desk.job_id, message, lease_s=lease_s))
    return Beaten(asked=asked)


def _events(desk: Desk, message: Events) -> None:
    def work(db: Connection) -> None:
        job_events.tell(db, desk.job_id, message.events, fence=message.fence)

    desk.database.write(work)


def _started(desk: Desk, message: Started) -> None:
    now_s = time.time()
    desk.database.write(lambda db: job_leases.started(db, desk.job_id, message, now_s=now_s))


def _checkpoint(desk: Desk, message: Checkpoint) -> Named:
    folder = desk.model(message)

    def work(db: Connection) -> str:
        job = job_leases.by_worker(db, desk.job_id, fence=message.fence)
        return job_leases.checkpoint(
            db,
            desk.job_id,
            message,
            folder=folder,
            base_name=desk.base_name(db, job),
            organization=desk.api.organization,
            now_s=time.time(),
        )

    return Named(name=desk.database.write(work))


def _finish(desk: Desk, message: Finish) -> None:
    if message.outcome != "succeeded":
        last = job_leases.finish
        desk.database.write(lambda db: last(db, desk.job_id, message, now_s=time.time()))
        return
    folder = desk.model(message)
    result = desk.path(message.fence, message.result_csv)
    with incoming(desk.database) as new:
        new.write(_result(result, desk.api))
        content = new.finish()
        desk.database.write(lambda db: _succeed(db, desk, message, folder, content))


def _succeed(db: Connection, desk: Desk, message: Finish, folder: str, content: Content) -> None:
    """Publish the final model and the result file, and end the job, all in one write."""
    job = job_leases.by_worker(db, desk.job_id, fence=message.fence)
    now_s = time.time()
    result = add_file(
        db,
        content,
        project_id=job.project_id,
        filename=RESULT,
        purpose="fine-tune-results",
        now_s=now_s,
    )
    job_leases.finish(
        db,
        desk.job_id,
        message,
        now_s=now_s,
        folder=folder,
        base_name=desk.base_name(db, job),
        organization=desk.api.organization,
        result_files=(result.id,),
    )


def _result(path: Path, api: ApiSettings) -> bytes:
    """Return the result file as this server gives it out: as it is, or in base64."""
    content = path.read_bytes()
    return base64.b64encode(content) if api.result_encoding == "base64" else content
