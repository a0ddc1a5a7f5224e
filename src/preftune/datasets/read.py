"""Read records from any known format: row by row, whole, or just the kind a caller needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec

from preftune.datasets.contract import examine
from preftune.datasets.formats.row import KIND_NAMES, Format
from preftune.datasets.scanned import Problem, RefusedError, Scanned
from preftune.datasets.sources import open_source
from preftune.errors import DataError, RowError
from preftune.lines import MAX_LINE_BYTES, RawRow
from preftune.messages import Notes
from preftune.text import visible
from preftune.types import (
    Comparison,
    Demonstration,
    Judgment,
    PreferencePair,
    Prompt,
    RankedList,
    Record,
    Response,
    UnpairedRow,
    text_of,
)

R = TypeVar("R", bound=Record)
OnBad = Literal["stop", "skip"]

_TURN_INTO: dict[tuple[type[Record], type[Record]], str] = {
    (
        Demonstration,
        PreferencePair,
    ): "preftune data convert {path} --to chat --out demonstrations.jsonl",
    (
        Demonstration,
        RankedList,
    ): "preftune data convert {path} --to chat --out demonstrations.jsonl",
    (PreferencePair, RankedList): "preftune data convert {path} --to trl --out pairs.jsonl",
    (
        UnpairedRow,
        PreferencePair,
    ): "preftune data convert {path} --to trl-unpaired --out unpaired.jsonl",
}
"""The command that makes the wanted kind of the kind a file holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A file being read: its format, its rows one after the other, and the share read so far."""

    format: str
    rows: Iterator[Scanned]
    percent: Callable[[], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A file read whole: usable records, rows that are usable but odd, rows that were left out."""

    records: list[Record]
    format: str
    odd: list[Scanned]
    refused: list[Scanned]


def scan(
    path: str | Path, *, format: str | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Scan:
    """Open a file and give its rows one by one, good and bad, in bounded memory.

    Args:
        path: JSON Lines, CSV (either may be `.gz`) or Parquet.
        format: name of the format; None detects it from the first rows.
        max_line_bytes: a longer line is refused, and never held in memory whole.

    Raises:
        DataError: the file cannot be read, or its format is not known. While the rows are read: the
            file is damaged. A bad row raises nothing, it is given with its problems.
    """
    path = Path(path)
    source = open_source(path, format, max_line_bytes)
    rows = (_scanned(raw, source.format) for raw in source.rows)
    return Scan(format=source.name, rows=rows, percent=source.percent)


def read_records(path: str | Path, *, format: str | None = None, on_bad: OnBad = "stop") -> Loaded:
    """Read a whole file.

    Raises:
        RowError: a row cannot be used and `on_bad` is "stop"; with "skip" such rows are in
            `refused`, with their reasons.
        DataError: the file cannot be read, its format is not known, or no usable row is in it.
    """
    opened = scan(path, format=format)
    loaded = Loaded(records=[], format=opened.format, odd=[], refused=[])
    for row in opened.rows:
        if row.record is None or not row.usable:
            if on_bad == "stop":
                raise row_error(path, row)
            loaded.refused.append(row)
            continue
        loaded.records.append(row.record)
        if row.problems:
            loaded.odd.append(row)
    if not loaded.records:
        raise DataError(f"{path}: none of {len(loaded.refused)} rows can be used. Mend the file.")
    return loaded


def row_error(path: str | Path, row: Scanned) -> RowError:
    """Return the error that names the first fatal problem of a row."""
    problem = next(p for p in row.problems if p.fatal)
    fix = f"{problem.fix} Or leave bad rows out: preftune data import --skip-bad."
    return RowError(path, row.line, problem.what, fix)


def read_pairs(path: str | Path, *, format: str | None = None) -> list[PreferencePair]:
    """Read a file of preference pairs; raise `DataError` when it holds anything else."""
    return _of_kind(PreferencePair, path, format)


def read_demonstrations(path: str | Path, *, format: str | None = None) -> list[Demonstration]:
    """Read a file of demonstrations; raise `DataError` when it holds anything else."""
    return _of_kind(Demonstration, path, format)


def read_rankings(path: str | Path, *, format: str | None = None) -> list[RankedList]:
    """Read a file of ranked lists; raise `DataError` when it holds anything else."""
    return _of_kind(RankedList, path, format)


def read_unpaired(path: str | Path, *, format: str | None = None) -> list[UnpairedRow]:
    """Read a file of unpaired rows; raise `DataError` when it holds anything else."""
    return _of_kind(UnpairedRow, path, format)


def read_responses(path: str | Path, *, format: str | None = None) -> list[Response]:
    """Read a file of responses; raise `DataError` when it holds anything else."""
    return _of_kind(Response, path, format)


def read_prompts(path: str | Path, *, format: str | None = None) -> list[Prompt]:
    """Read prompts, or the prompts of pairs, demonstrations and the like, each id once.

    Messages that end in the user's turn, such as an RFT row has, are a prompt as well.
    """
    found: dict[str, Prompt] = {}
    for row in scan(path, format=format).rows:
        record = row.record
        if record is None or not (row.usable or _asks_only(row)):
            raise row_error(path, row)
        if isinstance(record, Response | Judgment):
            raise _wrong_kind(path, Prompt, record)
        prompt = record if isinstance(record, Prompt) else record.prompt
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def _asks_only(row: Scanned) -> bool:
    """Whether nothing is wrong with a row but that its messages end in the user's turn."""
    record, fatal = row.record, {problem.kind for problem in row.problems if problem.fatal}
    if not isinstance(record, Demonstration) or fatal != {"no_assistant_turn"}:
        return False
    return not record.response and record.prompt.messages[-1].role == "user"


def read_references(path: str | Path, *, format: str | None = None) -> dict[str, list[str]]:
    """Read the right answers to each prompt id: responses, demonstrations, or what pairs chose."""
    found: dict[str, list[str]] = {}
    for record in read_records(path, format=format).records:
        match record:
            case Response(prompt_id=prompt_id, messages=messages):
                pass
            case Demonstration(prompt=Prompt(id=prompt_id), response=messages):
                pass
            case PreferencePair(prompt=Prompt(id=prompt_id), chosen=messages):
                pass
            case _:
                raise _wrong_kind(path, Response, record)
        found.setdefault(prompt_id, []).append(text_of(messages))
    return found


def read_comparisons(
    path: str | Path, *, format: str | None = None
) -> tuple[list[Comparison], list[Judgment]]:
    """Read a file of comparisons and the judgments on them, in any order."""
    records = read_records(path, format=format).records
    for record in records:
        if not isinstance(record, Comparison | Judgment):
            raise _wrong_kind(path, Comparison, record)
    return (
        [record for record in records if isinstance(record, Comparison)],
        [record for record in records if isinstance(record, Judgment)],
    )


def _of_kind(kind: type[R], path: str | Path, format: str | None) -> list[R]:
    records = read_records(path, format=format).records
    for record in records:
        if not isinstance(record, kind):
            raise _wrong_kind(path, kind, record)
    return cast(list[R], records)


def _wrong_kind(path: str | Path, wanted: type[Any], record: Record) -> DataError:
    found = type(record)
    command = _TURN_INTO.get((wanted, found), "").format(path=path)
    fix = f"Run: {command}" if command else f"Give a file of {KIND_NAMES[wanted]}."
    return DataError(f"{path}: holds {KIND_NAMES[found]}, not {KIND_NAMES[wanted]}. {fix}")


def _scanned(raw: RawRow, fmt: Format) -> Scanned:
    """Read one row: its record where one can be built, even from a bad row, and its problems."""
    notes: Notes = []
    record = None
    try:
        if raw.row is None:
            raise raw.refusal or RefusedError("no_row", "nothing to read", "Mend the row.")
        if fmt.known and not raw.row.keys() <= fmt.known:
            notes += [_unknown(name) for name in raw.row if name not in fmt.known]
        record = fmt.read(raw.row, notes)
        notes += examine(record)
    except RefusedError as refusal:
        notes.append(refusal.problem)
    except DataError as error:
        notes.append(_problem_of(error))
    text = _text_of(raw) if any(problem.fatal for problem in notes) else ""
    return Scanned(line=raw.line, record=record, problems=tuple(notes), raw=text)


def _text_of(raw: RawRow) -> str:
    """Return a row as the file has it, or as JSON when it stands in a table."""
    cells = raw.row is not None and not raw.raw
    found = msgspec.json.encode(raw.row, enc_hook=repr) if cells else raw.raw
    return found.decode(errors="replace")


def _unknown(name: str) -> Problem:
    fix = "Nothing to do if it is not needed."
    what = f"unknown field {name!r}, not kept"
    return Problem(kind="unknown_field", what=what, fix=fix, fatal=False)


def _problem_of(error: DataError) -> Problem:
    """Return the problem behind an error that a record raised on being made."""
    shown = visible(str(error))
    what, _, fix = shown.rpartition(". ")
    kind = "equal_responses" if "chosen equals rejected" in what else "bad_record"
    return Problem(kind=kind, what=what or shown, fix=fix or "Mend the row.")
