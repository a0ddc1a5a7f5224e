"""File to file: import into our own format, and convert between formats, a row at a time."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

import msgspec

from preftune.datasets.convert import KIND_OF, Target, convert, target_named
from preftune.datasets.formats.csv_table import CSV
from preftune.datasets.formats.table import JSON_LINES
from preftune.datasets.read import OnBad, Scan, row_error, scan
from preftune.datasets.scanned import Scanned
from preftune.datasets.write import Lost, write_records
from preftune.errors import DataError
from preftune.files import atomic_open
from preftune.progress import progress
from preftune.types import Record

_ROWS_PER_STEP = 500
Lines = dict[str, list[int]]
"""Kind of problem to the numbers of the lines that have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transferred:
    """What became of a file: rows read, records written, and what was odd, refused or lost."""

    format: str
    rows: int
    lost: Lost
    odd: Lines
    refused: Lines = field(default_factory=dict)
    refused_rows: int = 0
    refused_path: Path | None = None


def import_file(
    source: Path, out: Path, *, format: str | None = None, on_bad: OnBad = "stop"
) -> Transferred:
    """Write a file of any known format as our own, and refused rows with their reasons beside it.

    Refused rows go to `OUT.refused.jsonl`; the file is there only when there are any. Nothing is
    written when this raises.

    Raises:
        RowError: a row cannot be used and `on_bad` is "stop".
        DataError: the file cannot be read, its format is not known, or no row of it can be used.
    """
    opened, tally = scan(source, format=format), _Tally()
    name = out.name.removesuffix(".gz").removesuffix(".jsonl")
    refused = out.with_name(f"{name}.refused.jsonl")
    with ExitStack() as files:
        reasons: list[IO[bytes]] = []

        def set_aside(row: Scanned) -> None:
            if on_bad == "stop":
                raise row_error(source, row)
            if not reasons:
                reasons.append(files.enter_context(atomic_open(refused)))
            reasons[0].write(_reasons(source, row))

        lost = write_records(out, _usable(source, opened, tally, set_aside))
    if not reasons:
        refused.unlink(missing_ok=True)  # of an earlier run
    return tally.result(opened.format, lost, refused if reasons else None)


def convert_file(
    source: Path, out: Path, *, to: str, target: str | None = None, format: str | None = None
) -> Transferred:
    """Write a file in another format, its records turned into the kind that format holds.

    Args:
        source: a file of any known format.
        out: where to; packed when it ends in `.gz`.
        to: name of the format to write.
        target: the kind of record to make; None takes what the format holds.
        format: name of the format of `source`; None detects it.

    Raises:
        RowError: a row cannot be used.
        DataError: the file cannot be read, a record cannot be turned into what is asked, or the
            format cannot hold its turns. Nothing is written then.
    """
    opened, tally = scan(source, format=format), _Tally()
    wanted = target_named(target) if target else _target_of(to)

    def stop(row: Scanned) -> NoReturn:
        raise row_error(source, row)

    left_out: Counter[str] = Counter()
    records = _usable(source, opened, tally, stop)
    lost = write_records(out, convert(records, wanted, left_out) if wanted else records, format=to)
    counts = {name: count for name, count in (left_out + Counter(lost.counts)).items() if count}
    return tally.result(opened.format, Lost(written=lost.written, counts=counts), None)


class _Tally:
    """Counts rows and the lines of each kind of problem while a file is read."""

    def __init__(self) -> None:
        self.rows = 0
        self.refused_rows = 0
        self.odd: Lines = {}
        self.refused: Lines = {}

    def add(self, row: Scanned) -> None:
        self.rows += 1
        self.refused_rows += not row.usable
        for kind in {p.kind for p in row.problems if p.fatal != row.usable}:
            (self.odd if row.usable else self.refused).setdefault(kind, []).append(row.line)

    def result(self, format: str, lost: Lost, refused_path: Path | None) -> Transferred:
        """Return the counts as a report."""
        return Transferred(
            format=format,
            rows=self.rows,
            lost=lost,
            odd=self.odd,
            refused=self.refused,
            refused_rows=self.refused_rows,
            refused_path=refused_path,
        )


def _usable(
    source: Path, opened: Scan, tally: _Tally, on_bad: Callable[[Scanned], None]
) -> Iterator[Record]:
    """Yield the usable records with a bar of the share read; hand the other rows to `on_bad`."""
    shown = 0
    with progress(f"reading {source.name} (%)", 100) as advance:
        for row in opened.rows:
            tally.add(row)
            if tally.rows % _ROWS_PER_STEP == 0:
                advance(opened.percent() - shown)
                shown = opened.percent()
            if row.usable and row.record is not None:
                yield row.record
            else:
                on_bad(row)
    if tally.refused_rows == tally.rows:
        raise DataError(f"{source}: none of {tally.rows} rows can be used. Mend the file.")


def _reasons(source: Path, row: Scanned) -> bytes:
    """Return a refused row as one line: where it stood, why it was refused, and its text."""
    problems = [{"kind": p.kind, "what": p.what, "fix": p.fix} for p in row.problems if p.fatal]
    line = {"source": source.name, "line": row.line, "problems": problems, "row": row.raw}
    return msgspec.json.encode(line) + b"\n"


def _target_of(format: str) -> Target | None:
    """Return what records are turned into for a format that holds just one kind of them."""
    kind = (
        CSV.kind
        if format == CSV.name
        else JSON_LINES[format].kind
        if format in JSON_LINES
        else None
    )
    return next((target for target, made in KIND_OF.items() if made is kind), None)
