"""Open a file of rows: JSON Lines, CSV or Parquet, packed or not, read a piece at a time."""

import csv
import gzip
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from preftune.datasets.formats.csv_table import CSV, NEEDS, row_of
from preftune.datasets.formats.parquet import read_parquet
from preftune.datasets.formats.row import Format, Row
from preftune.datasets.formats.table import JSON_LINES, detect, unknown_format
from preftune.datasets.lines import MAX_LINE_BYTES, parse_json, read_lines
from preftune.datasets.scanned import RefusedError
from preftune.errors import DataError, RowError
from preftune.files import open_binary

_PEEKED = 8  # rows looked at to detect the format
_SHOWN_OF_LONG_LINE = 200  # characters
_BOM = b"\xef\xbb\xbf"


class RawRow(NamedTuple):
    """A row before any format has read it; `row` is None when it was refused.

    `raw` is the line as it stands; empty for the rows of a table.
    """

    line: int
    row: Row | None
    refusal: RefusedError | None
    raw: bytes


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
    head = _head(path)
    container = _container(path, format, head)
    if container == "parquet":
        return _open_parquet(path, (format or "").removeprefix("parquet").removeprefix(":"))
    file = open_binary(path)
    size = max(path.stat().st_size, 1)

    def percent() -> int:
        return 100 if file.closed else 100 * os.lseek(file.fileno(), 0, os.SEEK_CUR) // size

    if container == "csv":
        rows = _guarded(path, file, _csv_rows(path, file, max_line_bytes))
        return Source(format=CSV, name="csv", rows=_not_empty(path, rows), percent=percent)
    rows = _guarded(path, file, _json_rows(file, max_line_bytes))
    fmt, rows = _pick(path, format, rows)
    return Source(format=fmt, name=fmt.name, rows=rows, percent=percent)


def _head(path: Path) -> bytes:
    """Return the first bytes of the file, unpacked; raise `DataError` when there are none."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder. Give one file.")
    try:
        with open_binary(path) as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Check the path.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}. Give a file that can be read.") from error
    if not head:
        raise DataError(f"{path}: is empty. Give a file with one row per line.")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: is packed with gzip. Rename it to {path.name}.gz.")
    return head


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
    first = head.removeprefix(_BOM).lstrip()
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


def _guarded(path: Path, file: IO[bytes], rows: Iterator[RawRow]) -> Iterator[RawRow]:
    """Yield the rows, close the file after the last, and name the file when it is damaged."""
    with file:
        try:
            yield from rows
        except (EOFError, zlib.error, OSError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(f"{path}: damaged or cut short ({what}). Fetch or pack it again.")


def _json_rows(file: IO[bytes], limit: int) -> Iterator[RawRow]:
    for line, found, whole in read_lines(file, limit=limit):
        raw = found.removeprefix(_BOM) if line == 1 else found
        if not whole:
            yield RawRow(line, None, _too_long(limit), raw[:_SHOWN_OF_LONG_LINE])
            continue
        try:
            yield RawRow(line, parse_json(raw), None, raw)
        except RefusedError as refusal:
            yield RawRow(line, None, refusal, raw)


def _too_long(limit: int) -> RefusedError:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit} bytes"
    return RefusedError(
        "line_too_long", f"the line is longer than {size}", "Split or shorten the row."
    )


def _csv_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[RawRow]:
    csv.field_size_limit(limit)
    table = csv.reader(_csv_lines(path, file, limit), strict=True)
    header = _csv_header(path, table)
    while True:
        line = table.line_num + 1
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            refusal = RefusedError(
                "broken_csv", f"broken CSV: {error}", "Quote the cell as RFC 4180 says."
            )
            yield RawRow(line, None, refusal, b"")
            continue
        try:
            yield RawRow(line, _csv_row(header, cells), None, b"")
        except RefusedError as refusal:
            raw = ",".join(cells).encode(errors="surrogateescape")
            yield RawRow(line, None, refusal, raw)


def _csv_header(path: Path, table: Iterator[list[str]]) -> list[str]:
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        fix = "Quote the names as RFC 4180 says."
        raise RowError(path, 1, f"broken CSV: {error}", fix) from error
    if len(set(header)) < len(header):
        raise RowError(path, 1, "two columns have the same name", "Rename one of them.")
    if lacking := [name for name in NEEDS if name not in header]:
        known = f"A table needs {', '.join(NEEDS)}."
        raise RowError(path, 1, f"no column {', '.join(map(repr, lacking))}", known)
    return header


def _csv_row(header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        what = f"{len(cells)} cells under {len(header)} columns"
        raise RefusedError("wrong_columns", what, "Give one cell for each column.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        raise RefusedError("not_utf8", "a cell is not UTF-8", "Save the file as UTF-8.") from error
    return row_of(dict(zip(header, cells, strict=True)))


def _csv_lines(path: Path, file: IO[bytes], limit: int) -> Iterator[str]:
    """Yield the lines as text; bytes that are not UTF-8 become lone surrogates, refused later."""
    for line, raw, whole in read_lines(file, limit=limit):
        if not whole:
            problem = _too_long(limit).problem
            raise RowError(path, line, problem.what, problem.fix)
        text = raw.removeprefix(_BOM) if line == 1 else raw
        yield text.decode(errors="surrogateescape") + "\n"


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
