"""Uploads: large files in parts, in any order; parts that have arrived outlive both sides."""

import hashlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from preftune.serving.api.access import Caller, require
from preftune.serving.api.bodies import Body, api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.file_bodies import (
    ExpiresAfter,
    PartObject,
    UploadObject,
    check_content,
    check_name,
    full_disk_named,
    shown_part,
    shown_upload,
)
from preftune.serving.api.forms import read_form
from preftune.serving.api.limits import MIB, LimitSettings, limits_of
from preftune.serving.api.once import Once, OnceKey
from preftune.serving.api.paging import Listed
from preftune.serving.auth import Store
from preftune.store import uploads
from preftune.store.api_files import UnknownFileError, UploadPurpose, file_of
from preftune.store.blobs import Incoming, incoming, path_of
from preftune.store.database import Database
from preftune.store.uploads import NewUpload, Part, UnknownUploadError, Upload

router = api_router("uploads")
Reading = Annotated[Caller, Depends(require("files:read"))]
Writing = Annotated[Caller, Depends(require("files:write"))]
PART_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class UploadSent(Body):
    """What is to come."""

    filename: str
    purpose: UploadPurpose
    bytes: int = Field(ge=1)
    mime_type: str = Field(min_length=1, max_length=200)
    expires_after: ExpiresAfter | None = None


class PartsSent(Body):
    """The parts that make the file, in its order."""

    part_ids: list[str] = Field(min_length=1)
    md5: str | None = Field(default=None, pattern="^[0-9A-Fa-f]{32}$")


@router.post("/v1/uploads", response_model=UploadObject)
def create_upload(request: Request, sent: UploadSent, caller: Writing, once: OnceKey) -> Response:
    """Announce a file that will come in parts."""
    limits = limits_of(request)
    check_name(sent.filename, sent.purpose, param="filename")
    if sent.bytes > limits.upload_gib * 1024 * MIB:
        what = f"An upload holds {limits.upload_gib} GiB at most."
        raise ApiError(400, what, param="bytes", code="invalid_value")
    now_s = time.time()
    new = NewUpload(
        project_id=caller.project_id,
        filename=sent.filename,
        purpose=sent.purpose,
        mime_type=sent.mime_type,
        bytes=sent.bytes,
        file_expires_after_s=sent.expires_after.seconds if sent.expires_after else None,
    )
    expires_s = now_s + 3600 * limits.upload_hours
    return once.write(
        lambda db: shown_upload(uploads.create(db, new, now_s=now_s, expires_s=expires_s))
    )


@router.get("/v1/uploads/{upload_id}")
def retrieve_upload(store: Store, caller: Reading, upload_id: str) -> UploadObject:
    """Look at an upload."""
    now_s = time.time()
    with store.read() as db:
        found = _upload(db, caller, upload_id)
        try:
            made = file_of(db, caller.project_id, found.file_id or "", now_s=now_s)
        except UnknownFileError:
            made = None  # none yet, or deleted since
    return shown_upload(found, made)


@router.get("/v1/uploads/{upload_id}/parts")
def list_parts(store: Store, caller: Reading, upload_id: str) -> Listed[PartObject]:
    """List the parts that have arrived, to go on after a break."""
    with store.read() as db:
        found = uploads.arrived(db, _upload(db, caller, upload_id))
    return Listed(data=[shown_part(part) for part in found], has_more=False)


@router.post("/v1/uploads/{upload_id}/parts", response_model=PartObject, openapi_extra=PART_FORM)
async def create_part(request: Request, caller: Writing, once: OnceKey, upload_id: str) -> Response:
    """Send a part of an upload; sent again, it is another part."""
    database, limits = request.app.state.database, limits_of(request)
    if once.key is None:  # with one, what was answered before comes first
        await run_in_threadpool(_pending, database, caller, upload_id)
    with full_disk_named(), incoming(database) as new:
        form = await read_form(request, "data", new, most=limits.part_mib * MIB)
        if form.filename is None or form.fields:
            raise ApiError(400, "Send one field, 'data', with the bytes of the part.", param="data")
        return await run_in_threadpool(_keep_part, new, caller, once, upload_id)


@router.post("/v1/uploads/{upload_id}/complete", response_model=UploadObject)
def complete_upload(
    request: Request, sent: PartsSent, store: Store, caller: Writing, once: OnceKey, upload_id: str
) -> Response:
    """Make the file from its parts, in the order they are listed here."""
    answered = once.replay()
    if answered is not None:
        return answered
    with store.read() as db:
        upload = _upload(db, caller, upload_id)
        uploads.pending(db, caller.project_id, upload_id, now_s=time.time())
        parts = uploads.parts_of(db, upload, sent.part_ids)
    with full_disk_named(), incoming(store) as new:
        _join(store, parts, new, md5=sent.md5)
        return _keep_file(new, upload, once, limits_of(request))


@router.post("/v1/uploads/{upload_id}/cancel")
def cancel_upload(store: Store, caller: Writing, upload_id: str) -> UploadObject:
    """End an upload without a file."""
    now_s = time.time()

    def end(db: Connection) -> Upload:
        _upload(db, caller, upload_id)
        return uploads.cancel(db, caller.project_id, upload_id, now_s=now_s)

    return shown_upload(store.write(end))


def _upload(db: Connection, caller: Caller, upload_id: str) -> Upload:
    try:
        return uploads.upload_of(db, caller.project_id, upload_id, now_s=time.time())
    except UnknownUploadError as error:
        raise ApiError(404, str(error), param="upload_id") from error


def _pending(database: Database, caller: Caller, upload_id: str) -> None:
    """Refuse a part of an upload that takes none, before the part is read."""
    with database.read() as db:
        _upload(db, caller, upload_id)
        uploads.pending(db, caller.project_id, upload_id, now_s=time.time())


def _keep_part(new: Incoming, caller: Caller, once: Once, upload_id: str) -> Response:
    content, now_s = new.finish(), time.time()
    if not content.bytes:
        raise ApiError(400, "The part is empty.", param="data")

    def add(db: Connection) -> PartObject:
        upload = _upload(db, caller, upload_id)
        made = uploads.add_part(
            db, content, project_id=upload.project_id, upload_id=upload.id, now_s=now_s
        )
        return shown_part(made)

    return once.of(content.sha256.encode()).write(add)


def _join(store: Database, parts: Sequence[Part], new: Incoming, *, md5: str | None) -> None:
    """Write the parts one after the other.

    Raises:
        ApiError: 400, a part went away meanwhile, or together they have another MD5.
    """
    found = hashlib.md5(usedforsecurity=False)
    for part in parts:
        try:
            file = path_of(store, part.project_id, part.sha256).open("rb")
        except FileNotFoundError as error:
            raise ApiError(400, "The upload has ended meanwhile. Create another.") from error
        with file:
            while piece := file.read(MIB):
                new.write(piece)
                if md5 is not None:
                    found.update(piece)
    if md5 is not None and md5.lower() != found.hexdigest():
        what = "The parts in this order have another MD5. Check them and their order."
        raise ApiError(400, what, param="md5", code="invalid_value")


def _keep_file(new: Incoming, upload: Upload, once: Once, limits: LimitSettings) -> Response:
    content = new.finish()
    check_content(content.temporary, upload.purpose, limits)
    now_s = time.time()

    def finish(db: Connection) -> UploadObject:
        made = uploads.complete(db, content, upload, now_s=now_s)
        ended = uploads.upload_of(db, upload.project_id, upload.id, now_s=now_s)
        return shown_upload(ended, made)

    return once.write(finish)
