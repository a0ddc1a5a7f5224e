"""The page of files: what was uploaded, and what jobs left."""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from preftune.serving.job_frame import At, Desk
from preftune.serving.lead_payload import Done
from preftune.serving.web import Nothing
from preftune.store.api_files import (
    ApiFile,
    UnknownFileError,
    delete_file,
    file_of,
    files_of,
    path_of,
)

router = APIRouter()
FILES = 50  # on a page

FileId = Annotated[str, Path(max_length=64)]


@router.get("/files", include_in_schema=False)
def files_page(at: At, after: Annotated[str, Query(max_length=64)] = "") -> Response:
    """Show the files, the newest first."""
    with at.database.read() as db:
        found = files_of(db, at.project_id, now_s=time.time(), after=after or None, limit=FILES)
    more = found.data[-1].id if found.has_more else ""
    return at.page("files.html.jinja", files=found.data, after=after, more=more)


@router.get("/files/{file_id}/content")
def download(at: At, file_id: FileId) -> Response:
    """Return the bytes of a file, to be saved: no browser shows what strangers wrote as a page."""
    found = _found(at, file_id)
    path = path_of(at.database, at.project_id, found.sha256)
    return FileResponse(path, media_type="application/octet-stream", filename=found.filename)


@router.post("/files/{file_id}/delete")
def remove(at: At, file_id: FileId, _: Nothing) -> Done:
    """Delete a file; jobs that were given it go on."""
    found = _found(at, file_id)
    at.database.write(lambda db: delete_file(db, at.project_id, file_id, now_s=time.time()))
    return Done(message=f"{found.filename} is deleted.")


def name_of(db: Connection, project_id: str, file_id: str | None) -> str:
    """Return a file's name for people, its id once it is deleted; "none" without a file."""
    if file_id is None:
        return "none"
    try:
        return file_of(db, project_id, file_id, now_s=time.time()).filename
    except UnknownFileError:
        return f"{file_id} (deleted since)"


def _found(at: Desk, file_id: str) -> ApiFile:
    with at.database.read() as db:
        try:
            return file_of(db, at.project_id, file_id, now_s=time.time())
        except UnknownFileError as error:
            raise HTTPException(404) from error
