"""From the `LogRow` of a prompt back to the row of the log, for whoever has the log."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preftune.files import open_binary, sha256_of
from preftune.lines import guarded, head_of, json_rows, read_lines
from preftune.prompts.log_ids import hashed_id, is_hashed, key_beside, read_key
from preftune.prompts.log_rows import log_id
from preftune.types import LogRow


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRow:
    """A row of a log that was looked for."""

    row: LogRow
    line: int | None  # where it stands now; None: not found
    text: str = ""  # the line as it stands
    moved: bool = False  # found by its id, in a file that is not the one imported


def find_rows(log: Path, rows: Sequence[LogRow], *, key: Path | None = None) -> list[FoundRow]:
    """Return where the rows stand in a log: by line in the very file, by their ids in another.

    Args:
        log: JSON Lines or CSV, `.gz` or not; in another CSV nothing is found.
        rows: what to look for.
        key: file of the key that ids were hashed with; None: beside the log.

    Raises:
        DataError: the log or the key cannot be read.
    """
    head_of(log)
    sha256 = sha256_of(log)
    by_line = {row.line for row in rows if row.sha256 == sha256}
    lines = _lines(log, by_line) if by_line else {}
    others = {row.id for row in rows if row.sha256 != sha256 and row.id}
    moved = _moved(log, others, key) if others else {}
    found: list[FoundRow] = []
    for row in rows:
        if row.line in lines and row.sha256 == sha256:
            found.append(FoundRow(row=row, line=row.line, text=lines[row.line]))
        elif row.id in moved:
            line, text = moved[row.id]
            found.append(FoundRow(row=row, line=line, text=text, moved=True))
        else:
            found.append(FoundRow(row=row, line=None))
    return found


def _lines(log: Path, wanted: set[int]) -> dict[int, str]:
    with open_binary(log) as file:
        return {
            number: raw.decode(errors="replace")
            for number, raw, _ in read_lines(file)
            if number in wanted
        }


def _moved(log: Path, ids: set[str], key_path: Path | None) -> dict[str, tuple[int, str]]:
    """Return line and text of each id that is in the log, the first that has it."""
    hashed = any(map(is_hashed, ids))
    key = read_key(key_path or key_beside(log)) if hashed else b""
    found: dict[str, tuple[int, str]] = {}
    for line, id, text in _ids(log):
        for name in (id, hashed_id(id, key)) if hashed else (id,):
            if name in ids:
                found.setdefault(name, (line, text))
    return found


def _ids(log: Path) -> Iterator[tuple[int, str, str]]:
    file = open_binary(log)
    for raw in guarded(log, file, json_rows(file)):
        if raw.row is not None and (id := log_id(raw.row)):
            yield raw.line, id, raw.raw.decode(errors="replace")
