"""Uploads: a file that comes in parts, in any order; what has arrived stays until it ends."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from preftune.errors import StoreError
from preftune.store.api_files import ApiFile, add_file
from preftune.store.blobs import Content, take_in
from preftune.store.job_schema import upload_parts, uploads

UploadState = Literal["pending", "completed", "cancelled", "expired"]


class UnknownUploadError(StoreError):
    """No such upload in this project."""


class UploadStateError(StoreError):
    """The upload has ended: it takes no part, and ends no second time."""


class PartsError(StoreError):
    """The parts that were listed do not make the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewUpload:
    """What is to come."""

    project_id: str
    filename: str
    purpose: str
    mime_type: str
    bytes: int
    file_expires_after_s: float | None = None  # of the file, from its making


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that comes in parts; times are seconds since 1970."""

    id: str  # upload_…
    project_id: str
    filename: str
    purpose: str
    mime_type: str
    bytes: int
    state: UploadState
    file_id: str | None
    file_expires_after_s: float | None
    created_s: float
    expires_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece that has arrived."""

    id: str  # part_…
    upload_id: str
    project_id: str
    sha256: str
    bytes: int
    created_s: float


def create(db: Connection, new: NewUpload, *, now_s: float, expires_s: float) -> Upload:
    """Begin an upload."""
    row = {name: getattr(new, name) for name in NewUpload.__slots__}
    row |= {"id": f"upload_{secrets.token_hex(16)}", "state": "pending", "file_id": None}
    row |= {"created_s": now_s, "expires_s": expires_s}
    db.execute(insert(uploads).values(row))
    return Upload(**row)


def upload_of(db: Connection, project_id: str, upload_id: str, *, now_s: float) -> Upload:
    """Return an upload.

    Raises:
        UnknownUploadError: the project has none of this id.
    """
    row = db.execute(select(uploads).where(_is(project_id, upload_id))).one_or_none()
    if row is None:
        raise UnknownUploadError(f"No such Upload object: {upload_id}")
    return _upload(row, now_s)


def pending(db: Connection, project_id: str, upload_id: str, *, now_s: float) -> Upload:
    """Return an upload that still takes parts.

    Raises:
        UnknownUploadError: the project has none of this id.
        UploadStateError: completed, cancelled or expired.
    """
    found = upload_of(db, project_id, upload_id, now_s=now_s)
    if found.state != "pending":
        raise UploadStateError(f"upload {upload_id}: it is {found.state}. Create another.")
    return found


def add_part(
    db: Connection, content: Content, *, project_id: str, upload_id: str, now_s: float
) -> Part:
    """Add a part to an upload, and return it.

    Raises:
        StoreError: as `pending`.
    """
    pending(db, project_id, upload_id, now_s=now_s)
    take_in(db, content, project_id=project_id, now_s=now_s)
    made = Part(
        id=f"part_{secrets.token_hex(16)}",
        upload_id=upload_id,
        project_id=project_id,
        sha256=content.sha256,
        bytes=content.bytes,
        created_s=now_s,
    )
    row = {name: getattr(made, name) for name in Part.__slots__}
    db.execute(insert(upload_parts).values(row))
    return made


def arrived(db: Connection, upload: Upload) -> list[Part]:
    """Return the parts of an upload in the order they came; none once it has ended."""
    mine = upload_parts.c.upload_id == upload.id
    query = select(upload_parts).where(mine)
    rows = db.execute(query.order_by(upload_parts.c.created_s, upload_parts.c.id))
    return [Part(**row._asdict()) for row in rows]


def parts_of(db: Connection, upload: Upload, part_ids: Sequence[str]) -> list[Part]:
    """Return the parts of an upload in the order of these ids.

    Raises:
        PartsError: one is not of this upload or is listed twice, or their sizes do not add up to
            what was announced.
    """
    known = {part.id: part for part in arrived(db, upload)}
    for part_id in part_ids:
        if part_id not in known:
            raise PartsError(f"part {part_id}: is no part of upload {upload.id}.")
    if len(set(part_ids)) < len(part_ids):
        raise PartsError("part_ids: a part is listed twice. List each once, in the file's order.")
    found = [known[part_id] for part_id in part_ids]
    if (total := sum(part.bytes for part in found)) != upload.bytes:
        raise PartsError(
            f"part_ids: these parts have {total} bytes together, the upload was to have "
            f"{upload.bytes}. List all of them, or create another upload."
        )
    return found


def complete(db: Connection, content: Content, upload: Upload, *, now_s: float) -> ApiFile:
    """Make the file of an upload whose parts were put together, and return it.

    Raises:
        StoreError: as `pending`; somebody may have ended it since.
    """
    pending(db, upload.project_id, upload.id, now_s=now_s)
    after_s = upload.file_expires_after_s
    made = add_file(
        db,
        content,
        project_id=upload.project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        now_s=now_s,
        expires_s=None if after_s is None else now_s + after_s,
    )
    _end(db, upload, "completed", file_id=made.id)
    return made


def cancel(db: Connection, project_id: str, upload_id: str, *, now_s: float) -> Upload:
    """End an upload without a file, and return it.

    Raises:
        StoreError: as `pending`.
    """
    found = pending(db, project_id, upload_id, now_s=now_s)
    _end(db, found, "cancelled")
    return upload_of(db, project_id, upload_id, now_s=now_s)


def expire(db: Connection, *, now_s: float) -> int:
    """End the uploads whose time is over, and return how many; their parts are gone."""
    late = and_(uploads.c.state == "pending", uploads.c.expires_s <= now_s)
    found = [_upload(row, now_s) for row in db.execute(select(uploads).where(late))]
    for upload in found:
        _end(db, upload, "expired")
    return len(found)


def _end(db: Connection, upload: Upload, state: UploadState, *, file_id: str | None = None) -> None:
    this = _is(upload.project_id, upload.id)
    db.execute(update(uploads).where(this).values(state=state, file_id=file_id))
    db.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload.id))


def _is(project_id: str, upload_id: str) -> Any:
    return and_(uploads.c.project_id == project_id, uploads.c.id == upload_id)


def _upload(row: Row[Any], now_s: float) -> Upload:
    """Return an upload; one whose time is over is expired, whether or not it was swept."""
    fields = row._asdict()
    if fields["state"] == "pending" and fields["expires_s"] <= now_s:
        fields["state"] = "expired"
    return Upload(**fields)
