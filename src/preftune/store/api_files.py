"""Files of the API: a name, a purpose and a content; what users call them is never a path."""

import secrets
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Row, and_, delete, exists, insert, or_, select, update

from preftune.errors import StoreError
from preftune.store.blobs import Content, path_of, take_in
from preftune.store.job_schema import api_files, jobs
from preftune.store.pages import Page, page_of, place_of

__all__ = [
    "PURPOSES",
    "ApiFile",
    "UnknownFileError",
    "UploadPurpose",
    "add_file",
    "delete_file",
    "file_of",
    "files_of",
    "forget_deleted",
    "path_of",
]

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES = (*get_args(UploadPurpose), "fine-tune-results", "assistants_output", "batch_output")
DELETED_KEPT_S = 600.0  # a deleted row still marks its place for lists that are being read
ENDED = ("succeeded", "failed", "cancelled")  # states of jobs that read no file any more


class UnknownFileError(StoreError):
    """No such file in this project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiFile:
    """A file; times are seconds since 1970."""

    id: str  # file-…
    project_id: str
    filename: str  # as its owner calls it
    purpose: str
    sha256: str
    bytes: int
    created_s: float
    expires_s: float | None


def file_of(db: Connection, project_id: str, file_id: str, *, now_s: float) -> ApiFile:
    """Return a file.

    Raises:
        UnknownFileError: the project has none of this id, or it was deleted or has expired.
    """
    mine = and_(api_files.c.id == file_id, _there(project_id, now_s))
    row = db.execute(select(api_files).where(mine)).one_or_none()
    if row is None:
        raise UnknownFileError(f"No such File object: {file_id}")
    return _file(row)


def files_of(
    db: Connection,
    project_id: str,
    *,
    now_s: float,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 10_000,
    newest_first: bool = True,
) -> Page[ApiFile]:
    """Return files in the order they came in.

    Raises:
        UnknownCursorError: the project never had a file `after`, or it was deleted long ago.
    """
    query = select(api_files).where(_there(project_id, now_s))
    if purpose is not None:
        query = query.where(api_files.c.purpose == purpose)
    seq = api_files.c.seq
    if after is not None:
        this = and_(api_files.c.project_id == project_id, api_files.c.id == after)
        place = place_of(db, seq, this, after)
        query = query.where(seq < place if newest_first else seq > place)
    return page_of(db, query.order_by(seq.desc() if newest_first else seq), limit, _file)


def add_file(
    db: Connection,
    content: Content,
    *,
    project_id: str,
    filename: str,
    purpose: str,
    now_s: float,
    expires_s: float | None = None,
) -> ApiFile:
    """Add a file with a content that waits (`blobs.incoming`), and return it."""
    take_in(db, content, project_id=project_id, now_s=now_s)
    made = ApiFile(
        id=f"file-{secrets.token_hex(16)}",
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        sha256=content.sha256,
        bytes=content.bytes,
        created_s=now_s,
        expires_s=expires_s,
    )
    row = {name: getattr(made, name) for name in ApiFile.__slots__}
    db.execute(insert(api_files).values(row))
    return made


def delete_file(db: Connection, project_id: str, file_id: str, *, now_s: float) -> None:
    """Delete a file: gone from all lists at once; jobs that were given it go on.

    Raises:
        UnknownFileError: the project has no such file.
    """
    mine = and_(api_files.c.id == file_id, _there(project_id, now_s))
    if not db.execute(update(api_files).where(mine).values(deleted_s=now_s)).rowcount:
        raise UnknownFileError(f"No such File object: {file_id}")


def forget_deleted(db: Connection, *, now_s: float) -> int:
    """Drop the rows of files that are deleted or expired, and that no job still reads.

    Returns:
        How many rows went. Their contents go with `blobs.drop_unused`.
    """
    late = now_s - DELETED_KEPT_S
    reading = exists().where(
        jobs.c.project_id == api_files.c.project_id,
        or_(jobs.c.training_file == api_files.c.id, jobs.c.validation_file == api_files.c.id),
        jobs.c.state.not_in(ENDED),
    )
    gone = or_(api_files.c.deleted_s < late, api_files.c.expires_s < late)
    return db.execute(delete(api_files).where(gone, ~reading)).rowcount


def _there(project_id: str, now_s: float) -> Any:
    return and_(
        api_files.c.project_id == project_id,
        api_files.c.deleted_s.is_(None),
        or_(api_files.c.expires_s.is_(None), api_files.c.expires_s > now_s),
    )


def _file(row: Row[Any]) -> ApiFile:
    fields = row._asdict()
    del fields["seq"], fields["deleted_s"]
    return ApiFile(**fields)
