"""Files: rows to train on, and what jobs hand back."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from preftune.serving.api.access import Caller, require
from preftune.serving.api.bodies import api_router
from preftune.serving.api.errors import ApiError
from preftune.serving.api.file_bodies import (
    DeletedFile,
    FileObject,
    check_content,
    check_name,
    full_disk_named,
    read_fields,
    shown_file,
)
from preftune.serving.api.forms import Form, read_form
from preftune.serving.api.limits import MIB, LimitSettings, limits_of
from preftune.serving.api.once import Once, OnceKey
from preftune.serving.api.paging import After, ListedWithEnds, LongLimit, listed_with_ends
from preftune.serving.auth import Store
from preftune.store import api_files
from preftune.store.api_files import UnknownFileError
from preftune.store.blobs import Content, Incoming, incoming
from preftune.store.pages import UnknownCursorError

T = TypeVar("T")
router = api_router("files")
Reading = Annotated[Caller, Depends(require("files:read"))]
Writing = Annotated[Caller, Depends(require("files:write"))]
Purpose = Literal[
    "assistants",
    "batch",
    "fine-tune",
    "vision",
    "user_data",
    "evals",
    "fine-tune-results",
    "assistants_output",
    "batch_output",
]
BINARY = {"type": "string", "format": "binary"}
FILE_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": BINARY,
                        "purpose": {"type": "string", "enum": list(api_files.PURPOSES[:6])},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": 2592000,
                        },
                    },
                }
            }
        },
    }
}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes of the file, exactly.",
        "content": {"application/octet-stream": {"schema": BINARY}},
    }
}


class FileBytes(FileResponse):
    """The bytes of a file, or the range of them that was asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; a range that cannot be given is refused in the API's own words.

        Raises:
            ApiError: 400, `Range` cannot be read; 416, it lies outside of the file.
        """

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise _bad_range(message["status"])
            await send(message)

        await super().__call__(scope, receive, checked)


def _bad_range(status: int) -> ApiError:
    wrong = "lies outside of the file" if status == 416 else "is no range of bytes"
    what = f"Invalid 'Range': it {wrong}. Ask for bytes=FIRST-LAST, or leave it out."
    return ApiError(status, what, param="Range", code="invalid_value")


@router.post("/v1/files", response_model=FileObject, openapi_extra=FILE_FORM)
async def create_file(request: Request, caller: Writing, once: OnceKey) -> Response:
    """Upload a file; a training file must be JSON Lines, and its first bad line is named."""
    limits = limits_of(request)
    with full_disk_named(), incoming(request.app.state.database) as new:
        form = await read_form(request, "file", new, most=limits.file_mib * MIB)
        return await run_in_threadpool(_keep, new, form, caller, once, limits)


@router.get("/v1/files")
def list_files(
    store: Store,
    caller: Reading,
    purpose: Purpose | None = None,
    after: After = None,
    limit: LongLimit = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> ListedWithEnds[FileObject]:
    """List files, the newest first unless `order` is asc."""
    try:
        with store.read() as db:
            page = api_files.files_of(
                db,
                caller.project_id,
                now_s=time.time(),
                purpose=purpose,
                after=after,
                limit=limit,
                newest_first=order == "desc",
            )
    except UnknownCursorError as error:
        raise ApiError(400, str(error), param="after") from error
    return listed_with_ends([shown_file(one) for one in page.data], page, [f.id for f in page.data])


@router.get("/v1/files/{file_id}")
def retrieve_file(store: Store, caller: Reading, file_id: str) -> FileObject:
    """Look at a file."""
    with store.read() as db:
        found = known(lambda: api_files.file_of(db, caller.project_id, file_id, now_s=time.time()))
    return shown_file(found)


@router.delete("/v1/files/{file_id}")
def delete_file(store: Store, caller: Writing, file_id: str) -> DeletedFile:
    """Delete a file; jobs that were given it go on."""
    gone = api_files.delete_file
    now_s = time.time()
    known(lambda: store.write(lambda db: gone(db, caller.project_id, file_id, now_s=now_s)))
    return DeletedFile(id=file_id)


@router.get("/v1/files/{file_id}/content", response_class=Response, responses=CONTENT)
def file_content(store: Store, caller: Reading, file_id: str) -> FileResponse:
    """Get what is in a file."""
    with store.read() as db:
        found = known(lambda: api_files.file_of(db, caller.project_id, file_id, now_s=time.time()))
    path = api_files.path_of(store, found.project_id, found.sha256)
    return FileBytes(path, media_type="application/octet-stream", filename=found.filename)


def known(look: Callable[[], T]) -> T:
    """Return what is found; a file that is not there is 404."""
    try:
        return look()
    except UnknownFileError as error:
        raise ApiError(404, str(error), param="id") from error


def _keep(new: Incoming, form: Form, caller: Caller, once: Once, limits: LimitSettings) -> Response:
    """Check a file that has arrived whole, and take it in."""
    said = read_fields(form.fields)
    if form.filename is None:
        what = "Missing required parameter: 'file'."
        raise ApiError(400, what, param="file", code="missing_required_parameter")
    filename, after = form.filename, said.expires_after
    check_name(filename, said.purpose, param="file")
    content = new.finish()
    check_content(content.temporary, said.purpose, limits)
    now_s = time.time()

    def add(db: Connection) -> FileObject:
        made = api_files.add_file(
            db,
            content,
            project_id=caller.project_id,
            filename=filename,
            purpose=said.purpose,
            now_s=now_s,
            expires_s=None if after is None else now_s + after.seconds,
        )
        return shown_file(made)

    return once.of(_said(content, form)).write(add)


def _said(content: Content, form: Form) -> bytes:
    """Return what tells the request from others: boundaries between its fields do not."""
    fields = sorted((*form.fields.items(), ("filename", form.filename or "")))
    return f"{content.sha256} {fields}".encode()
