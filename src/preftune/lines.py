"""Rows of a file in bounded memory, JSON Lines or CSV: strict, nothing is mended in silence."""

import csv
import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from preftune.errors import DataError, RowError
from preftune.files import open_binary

MAX_LINE_BYTES = 16 * 2**20
MAX_NESTING = 32
_SKIPPED_AT_ONCE = 2**16
_SHOWN_OF_LONG_LINE = 200  # characters
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with a row. A fatal one makes it unusable; an odd one is kept and counted."""

    kind: str  # short and stable, such as "empty_response"; used for counting
    what: str
    fix: str
    fatal: bool = True


class RefusedError(DataError):
    """A row cannot be read, or a record cannot be held; the caller knows file and line."""

    def __init__(self, kind: str, what: str, fix: str) -> None:
        super().__init__(kind, what, fix)
        self.problem = Problem(kind=kind, what=what, fix=fix)

    def __str__(self) -> str:
        return f"{self.problem.what}. {self.problem.fix}"


class RawRow(NamedTuple):
    """A row before any format has read it; `row` is None when it was refused.

    `raw` is the line as it stands; empty for the rows of a table.
    """

    line: int
    row: dict[str, Any] | None
    refusal: RefusedError | None
    raw: bytes


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; raise `DataError` when there are none."""
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
    return head.removeprefix(_BOM)


def guarded(path: Path, file: IO[bytes], rows: Iterator[RawRow]) -> Iterator[RawRow]:
    """Yield the rows, close the file after the last, and name the file when it is damaged."""
    with file:
        try:
            yield from rows
        except (EOFError, zlib.error, OSError) as error:
            raise _damaged(path, error) from error


def percent_read(path: Path, file: IO[bytes]) -> Callable[[], int]:
    """Return a function that says how much of an open file, packed or not, is read: 0 to 100."""
    size = max(path.stat().st_size, 1)

    def percent() -> int:
        return 100 if file.closed else 100 * os.lseek(file.fileno(), 0, os.SEEK_CUR) // size

    return percent


def json_rows(file: IO[bytes], limit: int = MAX_LINE_BYTES) -> Iterator[RawRow]:
    """Yield every line of a JSON Lines file, read or refused."""
    for line, found, whole in read_lines(file, limit=limit):
        raw = found.removeprefix(_BOM) if line == 1 else found
        if not whole:
            yield RawRow(line, None, _too_long(limit), raw[:_SHOWN_OF_LONG_LINE])
            continue
        try:
            yield RawRow(line, parse_json(raw), None, raw)
        except RefusedError as refusal:
            yield RawRow(line, None, refusal, raw)


def csv_rows(
    path: Path,
    file: IO[bytes],
    limit: int = MAX_LINE_BYTES,
    *,
    needs: tuple[str, ...],
    row_of: Callable[[dict[str, str]], dict[str, Any]],
) -> Iterator[RawRow]:
    """Yield every line of a table, read or refused.

    Args:
        path: named in errors.
        file: the table, as UTF-8 with a header.
        limit: most bytes of one line.
        needs: columns that the header must have.
        row_of: turns the named cells of one line into a row.

    Raises:
        RowError: the header is broken or lacks a column, or a line is longer than `limit`.
    """
    csv.field_size_limit(limit)
    table = csv.reader(_csv_lines(path, file, limit), strict=True)
    header = _csv_header(path, table, needs)
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
            yield RawRow(line, row_of(_named_cells(header, cells)), None, b"")
        except RefusedError as refusal:
            raw = ",".join(cells).encode(errors="surrogateescape")
            yield RawRow(line, None, refusal, raw)


def read_lines(
    file: IO[bytes], *, limit: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (line number from 1, bytes without the line end, whether the line is whole).

    Of a line longer than `limit` only the start is given; the rest is passed over in small pieces.
    """
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        whole = len(line) <= limit or line.endswith(b"\n")
        yield number, line.removesuffix(b"\n"), whole
        while not whole:
            rest = file.readline(_SKIPPED_AT_ONCE)
            whole = not rest or rest.endswith(b"\n")


def parse_json(line: bytes) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises:
        RefusedError: blank, not UTF-8, not JSON, not an object, a name given twice, NaN or
            Infinity, a number too large, half a surrogate pair, nesting deeper than `MAX_NESTING`.
    """
    if not line or line.isspace():
        raise RefusedError("blank_line", "the line is blank", "Delete it.")
    try:
        parsed = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is not UTF-8"
        raise RefusedError("not_utf8", where, "Save the file as UTF-8.") from error
    except RecursionError as error:
        raise _too_deep() from error
    except RefusedError:
        raise
    except ValueError as error:  # JSONDecodeError, or a whole number of thousands of digits
        what = " ".join(str(error).split())
        raise RefusedError(
            "broken_json", f"broken JSON: {what}", "Give one JSON object per line."
        ) from error
    if not isinstance(parsed, dict):
        raise RefusedError("wrong_type", "the line is not a JSON object", "Give one {…} per line.")
    if line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth(parsed) > MAX_NESTING:
        raise _too_deep()
    if b"\\u" in line:
        _refuse_lone_surrogates(parsed)
    return parsed


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(fields)
    if len(found) < len(fields):
        names = [name for name, _ in fields]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError("duplicate_key", f"field {twice!r} is given twice", "Keep one of them.")
    return found


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refuse_constant(digits)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise RefusedError(
        "not_finite", f"the number {name[:20]} is not finite", "Give a finite number."
    )


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
)


def _too_deep() -> RefusedError:
    what = f"lists and objects are nested deeper than {MAX_NESTING}"
    return RefusedError("too_deep", what, "Flatten the row.")


def _depth(value: object) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        inside = [v for v in level if isinstance(v, list | dict)]
        depth += bool(inside)
        level = [one for v in inside for one in (v.values() if isinstance(v, dict) else v)]
    return depth


def _refuse_lone_surrogates(parsed: object) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        what = f"half a surrogate pair, \\u{ord(error.object[error.start]):04x}"
        raise RefusedError("lone_surrogate", what, "Write the whole character.") from error


def _damaged(path: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(f"{path}: damaged or cut short ({what}). Fetch or pack it again.")


def _too_long(limit: int) -> RefusedError:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit} bytes"
    return RefusedError(
        "line_too_long", f"the line is longer than {size}", "Split or shorten the row."
    )


def _csv_header(path: Path, table: Iterator[list[str]], needs: tuple[str, ...]) -> list[str]:
    try:
        header = [name.strip() for name in next(table, [])]
    except csv.Error as error:
        fix = "Quote the names as RFC 4180 says."
        raise RowError(path, 1, f"broken CSV: {error}", fix) from error
    if len(set(header)) < len(header):
        raise RowError(path, 1, "two columns have the same name", "Rename one of them.")
    if lacking := [name for name in needs if name not in header]:
        known = f"A table needs {', '.join(needs)}."
        raise RowError(path, 1, f"no column {', '.join(map(repr, lacking))}", known)
    return header


def _named_cells(header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        what = f"{len(cells)} cells under {len(header)} columns"
        raise RefusedError("wrong_columns", what, "Give one cell for each column.")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        raise RefusedError("not_utf8", "a cell is not UTF-8", "Save the file as UTF-8.") from error
    return dict(zip(header, cells, strict=True))


def _csv_lines(path: Path, file: IO[bytes], limit: int) -> Iterator[str]:
    """Yield the lines as text; bytes that are not UTF-8 become lone surrogates, refused later."""
    for line, raw, whole in read_lines(file, limit=limit):
        if not whole:
            problem = _too_long(limit).problem
            raise RowError(path, line, problem.what, problem.fix)
        text = raw.removeprefix(_BOM) if line == 1 else raw
        yield text.decode(errors="surrogateescape") + "\n"
