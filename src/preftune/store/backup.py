"""Copies of a store that either database can be restored from, checked byte by byte.

A backup holds the rows, the datasets, the files that users uploaded or got, and the tuned models.
What training would go on from is not in it: a job that had not ended begins anew when restored.
"""

import gzip
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, func, insert, select, update

from preftune.errors import StoreError
from preftune.files import atomic_folder, read_json, sha256_of, write_json
from preftune.progress import progress
from preftune.store import events
from preftune.store.blobs import BLOBS, path_of
from preftune.store.database import Database, shown
from preftune.store.job_leases import begin_anew
from preftune.store.job_schema import blobs, tuned_models
from preftune.store.migrate import revision
from preftune.store.reading import Readable
from preftune.store.schema import (
    items,
    leases,
    login_attempts,
    metadata,
    projects,
    resets,
    sessions,
)

MANY = 2000  # rows at a time
PACKING = 1  # of gzip's 1 to 9: a backup is waited for
LEFT_OUT = (
    sessions,
    resets,
    login_attempts,
    leases,
)  # who is at work now; nothing is lost with them


def backup(database: Readable, out: Path) -> dict[str, int]:
    """Write a copy of one moment of a store into a new folder; return the rows of each table.

    Raters may go on meanwhile, in this process or another (`reading`). The folder can be read by
    its owner alone, and appears when it is whole.

    Raises:
        StoreError: the folder is there already.
    """
    if out.exists():
        raise StoreError(f"{out}: is there already. Give a folder that is not.")
    counts = {}
    with atomic_folder(out) as folder, database.read() as db:
        tables = [table for table in metadata.sorted_tables if table not in LEFT_OUT]
        with progress("backup", len(tables)) as advance:
            for table in tables:
                counts[table.name] = _write_table(db, table, folder / f"{table.name}.jsonl.gz")
                advance(note=table.name)
        _copy(_kept(db, database.files), database.files, folder)
        hashes = {
            str(file.relative_to(folder)): sha256_of(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        write_json(
            folder / "MANIFEST.json", {"revision": revision(db), "rows": counts, "sha256": hashes}
        )
        for file in folder.rglob("*"):
            file.chmod(0o700 if file.is_dir() else 0o600)
    out.chmod(0o700)
    return counts


def restore(folder: Path, database: Database) -> dict[str, int]:
    """Fill an empty store from a backup, after checking every byte; return the rows.

    The logs of all projects are verified inside the same transaction: either all of it is there
    afterwards, or nothing.

    Raises:
        StoreError: a file was changed or is missing, the backup is of another version of the
            tables, or the store is not empty.
    """
    manifest = _verified(folder)
    with database.read() as db:
        here = revision(db)
        if db.scalar(select(func.count()).select_from(projects)):
            raise StoreError(f"{shown(database.url)}: is not empty. Restore into a new store.")
    if manifest["revision"] != here:
        raise StoreError(
            f"{folder}: its tables are of version {manifest['revision']}, not {here}. "
            "Restore with the version of preftune that wrote it, then open it with this one."
        )
    _copy(_saved(folder), folder, database.files)  # first: a row never speaks of what is not there
    counts: dict[str, int] = database.submit(lambda db: _read_tables(db, folder, manifest)).result()
    return counts


def _kept(db: Connection, files: Path) -> list[Path]:
    """Return what is copied of the store's files, relative to their folder.

    Raises:
        StoreError: a row speaks of a file that is not there.
    """
    datasets = sorted((files / "datasets").glob("*.jsonl"))
    owned = select(blobs.c.project_id, blobs.c.sha256).order_by(*blobs.primary_key.columns)
    contents = [path_of(files, row.project_id, row.sha256) for row in db.execute(owned).all()]
    live = select(tuned_models.c.folder).where(tuned_models.c.deleted_s.is_(None))
    folders = [files / folder for folder in db.scalars(live.order_by(tuned_models.c.seq))]
    for path in (*contents, *folders):
        if not path.exists():
            raise StoreError(
                f"{path}: is missing: deleted while the backup ran, or lost. Run it again."
            )
    models = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return [path.relative_to(files) for path in dict.fromkeys((*datasets, *contents, *models))]


def _saved(folder: Path) -> list[Path]:
    """Return what a backup holds beside the tables, relative to its folder."""
    parts = ("datasets", BLOBS, "jobs")
    found = (file for part in parts for file in sorted((folder / part).rglob("*")))
    return [file.relative_to(folder) for file in found if file.is_file()]


def _copy(names: Iterable[Path], source: Path, target: Path) -> None:
    names = list(names)
    with progress("files", len(names)) as advance:
        for name in names:
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
            advance()


def _write_table(db: Connection, table: Table, path: Path) -> int:
    query = select(table).order_by(*table.primary_key.columns)
    names, encode, count = table.columns.keys(), msgspec.json.Encoder().encode, 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", PACKING, raw, mtime=0) as packed:
        for rows in db.execute(query.execution_options(yield_per=MANY)).partitions():
            packed.writelines(encode(dict(zip(names, row, strict=True))) + b"\n" for row in rows)
            count += len(rows)
    return count


def _read_tables(db: Connection, folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    counts = {}
    tables = [table for table in metadata.sorted_tables if table.name in manifest["rows"]]
    with progress("restore", len(tables)) as advance:
        for table in tables:
            counts[table.name] = _fill(db, table, folder / f"{table.name}.jsonl.gz")
            advance(note=table.name)
    if counts != manifest["rows"]:
        raise StoreError(f"{folder}: rows are missing. Use another backup.")
    db.execute(update(items).values(held=0))  # nobody has an item before them: leases are left out
    for project_id in db.scalars(select(projects.c.id)).all():
        events.verify(db, project_id)
    begin_anew(db, now_s=time.time())
    return counts


def _fill(db: Connection, table: Table, path: Path) -> int:
    """Read the rows of a table, its indexes made once at the end, and return how many they are."""
    count = 0
    for index in table.indexes:
        index.drop(db)
    for rows in _blocks(path):
        db.execute(insert(table), rows)
        count += len(rows)
    for index in table.indexes:
        index.create(db)
    numbers = table.autoincrement_column
    if numbers is not None and db.dialect.name == "postgresql":  # it counts rows it gave out itself
        counter = func.pg_get_serial_sequence(table.name, numbers.name)
        last = select(func.coalesce(func.max(numbers), 0) + 1).scalar_subquery()
        db.execute(select(func.setval(counter, last, False)))
    return count


def _blocks(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with gzip.open(path) as lines:
        for line in lines:
            rows.append(msgspec.json.decode(line))
            if len(rows) == MANY:
                yield rows
                rows = []
    if rows:
        yield rows


def _verified(folder: Path) -> dict[str, Any]:
    path = folder / "MANIFEST.json"
    if not path.is_file():
        raise StoreError(f"{folder}: no backup: MANIFEST.json is missing.")
    try:
        manifest: dict[str, Any] = read_json(path)
        hashes: dict[str, str] = manifest["sha256"]
        named = {str(folder / name): seal for name, seal in hashes.items()}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: damaged. Use another backup.") from error
    if extra := {str(folder / name) for name in _saved(folder)} - named.keys():
        raise StoreError(f"{min(extra)}: was not in the backup. Use another one.")
    for name, seal in named.items():
        if not Path(name).is_file() or sha256_of(Path(name)) != seal:
            raise StoreError(f"{name}: changed or missing since the backup. Use another one.")
    return manifest
