"""Contents of files, named by their SHA-256: whole and durable before any row speaks of them.

    with incoming(database) as new:
        new.write(b"…")
        content = new.finish()
        database.write(lambda db: add_file(db, content, …))    # takes it in; else it is thrown away

Each project has its own copies: whoever could share one with a stranger would learn from it that
the stranger has it. Taking in and throwing away are both writes of the store, one after the other,
so that no content goes while a row comes to need it.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, and_, delete, exists, insert, select

from preftune.files import fsync_dir, make_folder
from preftune.store.database import Database
from preftune.store.job_schema import api_files, blobs, upload_parts

BLOBS, TEMPORARY = "blobs", "uploads"  # folders within the store's files


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """A whole file that waits under a temporary name to be taken in."""

    temporary: Path
    files: Path  # folder of the store's files
    sha256: str
    bytes: int


class Incoming:
    """A file on its way in."""

    def __init__(self, file: IO[bytes], path: Path, files: Path) -> None:
        self.path, self.bytes = path, 0
        self._file, self._files = file, files
        self._sha256 = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Append to it."""
        self._file.write(piece)
        self._sha256.update(piece)
        self.bytes += len(piece)

    def finish(self) -> Content:
        """Make it durable, and return what there is to take in."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return Content(
            temporary=self.path,
            files=self._files,
            sha256=self._sha256.hexdigest(),
            bytes=self.bytes,
        )


@contextmanager
def incoming(database: Database) -> Iterator[Incoming]:
    """Yield a new file to write; what was not taken in when the block ends is gone."""
    folder = database.files / TEMPORARY
    make_folder(folder)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield Incoming(file, path, database.files)
    finally:
        path.unlink(missing_ok=True)


def path_of(files: Database | Path, project_id: str, sha256: str) -> Path:
    """Return where a project keeps a content; `files` is the store or the folder of its files."""
    folder = files.files if isinstance(files, Database) else files
    return folder / BLOBS / project_id / sha256[:2] / sha256


def take_in(db: Connection, content: Content, *, project_id: str, now_s: float) -> None:
    """Give a content its place; part of the write that adds the row which needs it.

    Killed in between, the content has no row, and goes with the next `collect_orphans`.
    """
    path = path_of(content.files, project_id, content.sha256)
    make_folder(path.parent)
    content.temporary.replace(path)
    fsync_dir(path.parent)
    row = {"project_id": project_id, "sha256": content.sha256}
    if not db.scalar(select(exists().where(_is(project_id, content.sha256)))):
        db.execute(insert(blobs).values(**row, bytes=content.bytes, created_s=now_s))


def drop_unused(database: Database) -> int:
    """Throw away the contents that no file and no part of an upload needs; return how many."""

    def drop(db: Connection) -> list[tuple[str, str]]:
        unused = [
            (row.project_id, row.sha256) for row in db.execute(select(blobs).where(_unused()))
        ]
        for project_id, sha256 in unused:
            db.execute(delete(blobs).where(_is(project_id, sha256)))
        return unused

    with database.read() as db:
        if db.execute(select(blobs.c.sha256).where(_unused()).limit(1)).first() is None:
            return 0
    gone = database.write(drop)
    for project_id, sha256 in gone:
        database.write(partial(_unlink, files=database.files, project_id=project_id, sha256=sha256))
    return len(gone)


def collect_orphans(database: Database) -> int:
    """Throw away what a killed process left: half-written files, contents without a row.

    Only at the start, before requests come in: it knows no file that is on its way.

    Returns:
        How many files went.
    """
    gone = 0
    for path in (database.files / TEMPORARY).glob("*.tmp"):
        path.unlink()
        gone += 1
    for path in (database.files / BLOBS).glob("*/??/*"):
        project_id, sha256 = path.parts[-3], path.name
        remove = partial(_unlink, files=database.files, project_id=project_id, sha256=sha256)
        gone += database.write(remove)
    return gone


def _unlink(db: Connection, *, files: Path, project_id: str, sha256: str) -> bool:
    """Delete a content that has no row; a row may have come since somebody looked."""
    if db.scalar(select(exists().where(_is(project_id, sha256)))):
        return False
    path_of(files, project_id, sha256).unlink(missing_ok=True)
    return True


def _is(project_id: str, sha256: str) -> Any:
    return and_(blobs.c.project_id == project_id, blobs.c.sha256 == sha256)


def _unused() -> Any:
    needed = [
        exists().where(table.c.project_id == blobs.c.project_id, table.c.sha256 == blobs.c.sha256)
        for table in (api_files, upload_parts)
    ]
    return and_(*(~one for one in needed))
