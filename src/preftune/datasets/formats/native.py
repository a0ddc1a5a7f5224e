"""Our own JSON Lines: any record of `types.py`, whole, its `type` among the fields."""

import msgspec

from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import Problem
from preftune.fields import Row
from preftune.messages import Notes
from preftune.records import TAGS, decode, encode
from preftune.types import Record


def _read(row: Row, notes: Notes) -> Record:
    line = msgspec.json.encode(row) + b"\n"
    record = decode(line)
    if encode(record) == line:  # as we write it: nothing in it is unknown
        return record
    for name in _unknown(row, {"type": "", **msgspec.to_builtins(record)}):
        what, fix = f"unknown field {name!r}, not kept", "Nothing to do if that is meant."
        notes.append(Problem(kind="unknown_field", what=what, fix=fix, fatal=False))
    return record


def _write(record: Record) -> Row:
    row: Row = msgspec.json.decode(encode(record))
    return row


def _unknown(row: object, kept: object, where: str = "") -> list[str]:
    """Return the names in `row` that `kept` has not, inner ones with their path."""
    if isinstance(row, dict) and isinstance(kept, dict):
        return [
            name
            for key, value in row.items()
            for name in (
                _unknown(value, kept[key], f"{where}{key}.") if key in kept else [f"{where}{key}"]
            )
        ]
    if isinstance(row, list) and isinstance(kept, list | tuple):
        return [
            name for one, its in zip(row, kept, strict=True) for name in _unknown(one, its, where)
        ]
    return []


PREFTUNE = Format(
    name="preftune",
    kind=None,
    holds="every kind of record, nothing left out",
    needs=("type",),
    known=frozenset(),
    read=_read,
    write=_write,
    fits=lambda row: isinstance(row["type"], str) and row["type"] in TAGS,
)
