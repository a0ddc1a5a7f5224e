"""Files of prompts and responses, row by row; what was refused; the report beside each output."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec

from preftune.errors import DataError, RowError
from preftune.files import atomic_open, open_binary, write_json
from preftune.lines import Problem, RawRow, guarded, head_of, json_rows, percent_read, read_lines
from preftune.progress import progress
from preftune.records import decode
from preftune.text import visible
from preftune.types import Prompt, Response

R = TypeVar("R", Prompt, Response)
T = TypeVar("T")
OnBad = Literal["stop", "skip"]
_ROWS_PER_STEP = 500


def beside(out: Path, ending: str) -> Path:
    """Return where a file goes that belongs to `out`: beside p.jsonl stands p.report.json."""
    return out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.jsonl')}.{ending}")


def check_paths(sources: Iterable[Path | None], outs: Iterable[Path | None]) -> None:
    """Raise `DataError` when two outputs are one file, or an output is an input or a folder."""
    taken = {path.resolve() for path in sources if path}
    for out in filter(None, outs):
        if out.is_dir():
            raise DataError(f"{out}: is a folder. Give the name of a file to make.")
        if out.resolve() in taken:
            raise DataError(f"{out}: is an input, or written twice. Give each file its own name.")
        taken.add(out.resolve())


def write_report(out: Path, report: Any) -> Path:
    """Write a report as `OUT.report.json`, last of all files: where it is, the others are whole."""
    path = beside(out, "report.json")
    write_json(path, asdict(report))
    return path


def read_rows(path: Path, kind: type[R]) -> Iterator[tuple[int, R]]:
    """Yield (line, record) of a file of ours, with a bar of the share read.

    Raises:
        RowError: a row is no record, or one of another kind.
        DataError: the file is missing, empty or damaged.
    """
    head_of(path)
    file = open_binary(path)
    rows = guarded(path, file, json_rows(file))
    for raw in with_bar(path, rows, percent_read(path, file)):
        yield raw.line, _record(path, raw, kind)


def read_again(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the records of a file that `read_rows` has read to its end, several times as fast.

    Raises:
        DataError: the file is no longer what it was.
    """
    with open_binary(path) as file:
        for _, line, _ in read_lines(file):
            record = decode(line)
            if not isinstance(record, kind):
                raise DataError(f"{path}: changed while it was read. Run the command again.")
            yield record


def with_bar(path: Path, rows: Iterator[T], percent: Callable[[], int]) -> Iterator[T]:
    """Yield the rows, and move a bar by the share of the file that is read."""
    shown = 0
    with progress(f"reading {path.name} (%)", 100) as advance:
        for number, row in enumerate(rows):
            if number % _ROWS_PER_STEP == 0:
                advance((now := percent()) - shown)
                shown = now
            yield row


class Refused:
    """Stops at a bad row, or puts it in `OUT.refused.jsonl` with its reason and counts it."""

    def __init__(self, source: Path, out: Path, on_bad: OnBad, files: ExitStack) -> None:
        self.source, self.on_bad = source, on_bad
        self.path = beside(out, "refused.jsonl")
        self.lines: dict[str, list[int]] = {}  # kind of problem to the lines that have it
        self._files = files
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))

    def add(self, line: int, problem: Problem, raw: bytes) -> None:
        """Set a row aside.

        Raises:
            RowError: bad rows are to stop the work.
        """
        if self.on_bad == "stop":
            fix = f"{problem.fix} Or leave bad rows out: --skip-bad."
            raise RowError(self.source, line, problem.what, fix)
        if self._file is None:
            self._file = self._files.enter_context(atomic_open(self.path))
        self.lines.setdefault(problem.kind, []).append(line)
        why = [{"kind": problem.kind, "what": problem.what, "fix": problem.fix}]
        text = raw.decode(errors="replace")
        row = {"source": self.source.name, "line": line, "problems": why, "row": text}
        self._file.write(msgspec.json.encode(row) + b"\n")


def _record(path: Path, raw: RawRow, kind: type[R]) -> R:
    if raw.refusal:
        problem = raw.refusal.problem
        raise RowError(path, raw.line, problem.what, problem.fix) from raw.refusal
    try:
        record = decode(raw.raw)
    except DataError as error:
        what, _, fix = visible(str(error)).rpartition(". ")
        raise RowError(path, raw.line, what, fix) from error
    if not isinstance(record, kind):
        found, wanted = (cls.__name__.lower() for cls in (type(record), kind))
        fix = f"Give a file of {wanted}s, as `preftune prompts import` writes them."
        raise RowError(path, raw.line, f"is a {found}, not a {wanted}", fix)
    return record
