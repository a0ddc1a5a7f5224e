"""Files and uploads as clients see them, and what they may say of a new one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from preftune.datasets.job_rows import syntax_problem
from preftune.files import DISK_ERRORS
from preftune.serving.api.bodies import Body
from preftune.serving.api.errors import ApiError
from preftune.serving.api.limits import LimitSettings
from preftune.store.api_files import ApiFile, UploadPurpose
from preftune.store.uploads import Part, Upload, UploadState

JSONL = ".jsonl"
LONGEST_NAME = 500  # characters


class ExpiresAfter(Body):
    """When a file deletes itself."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000, description="An hour to thirty days.")


class FileForm(Body):
    """What comes with a file."""

    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


class DeletedFile(BaseModel):
    """What is left of a deleted file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadObject(BaseModel):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: UploadState
    file: FileObject | None = None


class PartObject(BaseModel):
    """A part that has arrived."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
    bytes: int


def shown_file(file: ApiFile) -> FileObject:
    """Return a file as the API shows it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_s),
        expires_at=None if file.expires_s is None else int(file.expires_s),
        filename=file.filename,
        purpose=file.purpose,
    )


def shown_upload(upload: Upload, file: ApiFile | None = None) -> UploadObject:
    """Return an upload as the API shows it, with its file when it has one."""
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(upload.created_s),
        expires_at=int(upload.expires_s),
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.state,
        file=None if file is None else shown_file(file),
    )


def shown_part(part: Part) -> PartObject:
    """Return a part as the API shows it."""
    return PartObject(
        id=part.id, created_at=int(part.created_s), upload_id=part.upload_id, bytes=part.bytes
    )


def read_fields(fields: Mapping[str, str]) -> FileForm:
    """Return what the fields of a form say; `expires_after[seconds]` is a field of its own.

    Raises:
        RequestValidationError: an unknown field, or one that does not hold what it should.
    """
    said: dict[str, Any] = {}
    expiry: dict[str, int | str] = {}
    for name, text in fields.items():
        outer, _, inner = name.partition("[")
        if outer == "expires_after" and inner.endswith("]"):
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else text
            expiry[inner[:-1]] = number
        else:
            said[name] = text
    if expiry:
        said.setdefault("expires_after", expiry)
    try:
        return FileForm.model_validate(said)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from error


def check_name(filename: str, purpose: str, *, param: str) -> None:
    """Refuse a file name that cannot be kept, or that its purpose does not take.

    Args:
        filename: as its owner calls it.
        purpose: of the file.
        param: the field that the name came in.

    Raises:
        ApiError: 400.
    """
    if not filename or len(filename) > LONGEST_NAME or "\0" in filename:
        what = f"The file name is empty, longer than {LONGEST_NAME} characters or holds a NUL."
        raise ApiError(400, what, param=param, code="invalid_value")
    if purpose == "fine-tune" and not filename.lower().endswith(JSONL):
        what = f"A file for 'fine-tune' must be JSON Lines: name it …{JSONL}."
        raise ApiError(400, what, param=param, code="invalid_file_format")


def check_content(path: Path, purpose: str, limits: LimitSettings) -> None:
    """Refuse a training file that is no JSON Lines; names the first line that is not.

    Raises:
        ApiError: 400.
    """
    if purpose != "fine-tune":
        return
    problem = syntax_problem(path, most_line_bytes=limits.line_kib * 1024)
    if problem is not None:
        raise ApiError(400, problem, param="file", code="invalid_file_format")


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Turn a full or failing disk into 507; nothing of the request is left behind.

    Raises:
        ApiError: 507.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise ApiError(
            507, "Nothing was kept: the disk of the server is full. Make room, then send it again."
        ) from error
