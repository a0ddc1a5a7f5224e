"""The whole way back from a row: what was said of it, and the rows of the log that asked it."""

from dataclasses import dataclass
from pathlib import Path

from preftune.errors import DataError, SettingsError
from preftune.files import open_binary
from preftune.lines import head_of, read_lines
from preftune.prompts.log_find import FoundRow, find_rows
from preftune.records import decode
from preftune.store.database import Database
from preftune.store.lineage import Lineage, line_of, lineage
from preftune.store.projects import projects_of
from preftune.store.snapshots import dataset_file, snapshots_of
from preftune.types import (
    Comparison,
    Demonstration,
    PreferencePair,
    Prompt,
    RankedList,
    UnpairedRow,
)

Traced = PreferencePair | RankedList | UnpairedRow | Demonstration | Comparison | Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A row, where it stands, and what it came from."""

    row: Traced
    line: int
    lineage: Lineage | None  # where a store was given
    in_log: list[FoundRow] | None  # where a log was given

    @property
    def prompt(self) -> Prompt:
        """What was asked, with the log rows that asked it."""
        return self.row if isinstance(self.row, Prompt) else self.row.prompt


def trace(
    row_id: str,
    *,
    data: Path | None = None,
    store: Database | None = None,
    log: Path | None = None,
    id_key: Path | None = None,
) -> Trace:
    """Return where a row comes from.

    Args:
        row_id: of a pair, ranked list, unpaired row, demonstration, comparison or prompt.
        data: file of our own format that has it.
        store: whose datasets have it, the newest of them first; in the place of `data`.
        log: the log that was imported, to find its rows in.
        id_key: file of the key its ids were hashed with; None: beside the log.

    Raises:
        SettingsError: not just one of `data` and `store` is given.
        DataError: no row has this id, or a file cannot be read.
    """
    if (data is None) == (store is None):
        raise SettingsError("trace: give a file or a store. One of --data and --store.")
    came = _in_store(store, row_id) if store else None
    line, row = (came.at.line, came.at.row) if came else _in_file(data or Path(), row_id)
    made = Trace(row=row, line=line, lineage=came, in_log=None)
    if log is None:
        return made
    found = find_rows(log, made.prompt.log_rows, key=id_key)
    return Trace(row=row, line=line, lineage=came, in_log=found)


def _in_file(path: Path, row_id: str) -> tuple[int, Traced]:
    head_of(path)
    needle = row_id.encode() if row_id.isascii() and row_id.isprintable() else b""
    with open_binary(path) as file:
        for number, line, _ in read_lines(file):
            record = decode(line) if needle in line else None
            if isinstance(record, Traced) and record.id == row_id:
                return number, record
    raise DataError(
        f"{path}: no row has the id {row_id!r}. Give the id as it stands in a file of our own "
        "format; other formats keep no origin."
    )


def _in_store(database: Database, row_id: str) -> Lineage:
    with database.read() as db:
        held = [(p.id, s) for p in projects_of(db, None) for s in snapshots_of(db, p.id)]
    for project_id, found in sorted(held, key=lambda one: one[1].created_at, reverse=True):
        if not dataset_file(database, found.hash).is_file():
            continue
        if line := line_of(database, found.hash, row_id):
            return lineage(database, project_id, found.hash, line)
    raise DataError(f"store: no dataset has a row {row_id!r}. Freeze a dataset first.")
