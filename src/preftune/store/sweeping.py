"""What time takes away: expired files, uploads that never ended, old answers, unused contents."""

from dataclasses import dataclass

from sqlalchemy import Connection

from preftune.store import api_files, blobs, idempotency, uploads
from preftune.store.database import Database


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """How many of each went."""

    files: int
    uploads: int
    answers: int
    contents: int


def sweep(database: Database, *, now_s: float) -> Swept:
    """Take away what is over; to be called every minute or so."""

    def rows(db: Connection) -> tuple[int, int, int]:
        return (
            api_files.forget_deleted(db, now_s=now_s),
            uploads.expire(db, now_s=now_s),
            idempotency.forget_old(db, now_s=now_s),
        )

    files, ended, answers = database.write(rows)
    contents = blobs.drop_unused(database)
    return Swept(files=files, uploads=ended, answers=answers, contents=contents)
