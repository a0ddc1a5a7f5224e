"""Open a file of rows: JSON Lines, CSV or Parquet, packed or not, read a piece at a time."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from preftune.datasets.formats.csv_table import CSV, NEEDS, row_of
from preftune.datasets.formats.parquet import read_parquet
from preftune.datasets.formats.row import Format
from preftune.datasets.formats.table import JSON_LINES, detect, unknown_format
from preftune.errors import DataError, RowError
from preftune.files import open_binary
from preftune.lines import (
    MAX_LINE_BYTES,
    RawRow,
    csv_rows,
    guarded,
    head_of,
    json_rows,
    percent_read,
)

_PEEKED = 8  # rows looked at to detect the format


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An open file: its format, the name to show for it, its rows, how much of it is read."""

    format: Format
    name: str
    rows: Iterator[RawRow]
    percent: Callable[[], int]


def open_source(path: Path, format: str | None, max_line_bytes: int = MAX_LINE_BYTES) -> Source:
    """Open a file and say what format it is in: the one named, or else the one detected.

    Raises:
        DataError: missing, a folder, empty, damaged, of no known format, or of another than named.
        RowError: no format was named and none of the first rows can be read.
    """
    head = head_of(path)
    container = _container(path, format, head)
    if container == "parquet":
        return _open_parquet(path, (format or "").removeprefix("parquet").removeprefix(":"))
    file = open_binary(path)
    percent = percent_read(path, file)
    if container == "csv":
        rows = guarded(path, file, csv_rows(path, file, max_line_bytes, needs=NEEDS, row_of=row_of))
        return Source(format=CSV, name="csv", rows=_not_empty(path, rows), percent=percent)
    rows = guarded(path, file, json_rows(file, max_line_bytes))
    fmt, rows = _pick(path, format, rows)
    return Source(format=fmt, name=fmt.name, rows=rows, percent=percent)


def _container(path: Path, format: str | None, head: bytes) -> str:
    """Return `parquet`, `csv` or `jsonl`: what kind of file holds the rows."""
    parquet = head.startswith(b"PAR1")
    wants_parquet = format is not None and format.partition(":")[0] == "parquet"
    if wants_parquet and not parquet:
        raise DataError(f"{path}: is not a Parquet file. Leave --format out to detect what it is.")
    if parquet:
        if path.suffix == ".gz":
            raise DataError(f"{path}: Parquet inside gzip. Unpack it first: gunzip {path.name}.")
        return "parquet"
    if format is not None:
        return "csv" if format == "csv" else "jsonl"
    first = head.lstrip()
    if first.startswith(b"["):
        raise DataError(
            f"{path}: is one JSON array. "
            f"Write one object per line: jq -c '.[]' {path.name} > rows.jsonl"
        )
    header = first.partition(b"\n")[0].replace(b'"', b"").split(b",")
    named = ".csv" in path.suffixes and not first.startswith(b"{")
    return "csv" if named or {n.encode() for n in NEEDS} <= {h.strip() for h in header} else "jsonl"


def _pick(path: Path, name: str | None, rows: Iterator[RawRow]) -> tuple[Format, Iterator[RawRow]]:
    """Return the format of the rows, and the rows again, those looked at among them."""
    if name:
        if name not in JSON_LINES:
            raise unknown_format(name)
        return JSON_LINES[name], _not_empty(path, rows)
    peeked = list(itertools.islice(_not_empty(path, rows), _PEEKED))
    good = [(raw.line, raw.row) for raw in peeked if raw.row is not None]
    if not good and (refusal := peeked[0].refusal):
        raise RowError(path, peeked[0].line, refusal.problem.what, refusal.problem.fix) from refusal
    return detect(path, good), itertools.chain(peeked, rows)


def _not_empty(path: Path, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: has no rows. Give a file with one row at least.")
    return itertools.chain((first,), rows)


def _open_parquet(path: Path, inner: str) -> Source:
    total, found = read_parquet(path)
    done = 0

    def rows() -> Iterator[RawRow]:
        nonlocal done
        for row in found:
            done += 1
            yield RawRow(done, row, None, b"")

    fmt, picked = _pick(path, inner or None, rows())
    name = f"parquet:{fmt.name}"
    return Source(format=fmt, name=name, rows=picked, percent=lambda: 100 * done // max(total, 1))
