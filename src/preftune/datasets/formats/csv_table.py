"""CSV: one pair per row, for people with a spreadsheet.

A cell that a spreadsheet would run as a formula (it starts with = + - @, a tab or a carriage
return) is written with an apostrophe before it; reading takes the apostrophe away.

Source: RFC 4180; owasp.org/www-community/attacks/CSV_Injection.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from preftune.datasets.formats.columns import COLUMNS, make_pair, source_prompt_id, write_columns
from preftune.datasets.formats.messages import one_text, prompt_of
from preftune.datasets.formats.row import Format
from preftune.datasets.scanned import RefusedError
from preftune.fields import Row, need
from preftune.messages import Notes
from preftune.types import Message, PreferencePair, assistant, user

NEEDS = ("prompt", "chosen", "rejected")
HEADER = (
    "id",
    "prompt_id",
    "system",
    *NEEDS,
    *(name for name in COLUMNS if "id" not in name.split("_")),
)
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
_TO_ESCAPE = re.compile(r"'*[=+\-@\t\r]")


def escape(cell: str) -> str:
    """Return a cell that no spreadsheet runs as a formula; `unescape` gives the text back."""
    return "'" + cell if _TO_ESCAPE.match(cell) else cell


def unescape(cell: str) -> str:
    """Return the text of a cell without the apostrophe that `escape` put before it."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def row_of(cells: dict[str, str]) -> Row:
    """Return the cells of one line as a row; an empty cell is left out, unless it is a text."""
    return {n: unescape(cell) for n, cell in cells.items() if cell or n in NEEDS}


@contextmanager
def csv_sink(file: IO[bytes]) -> Iterator[Callable[[Row], None]]:
    """Yield a function that writes one row; the header is written first."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    table = csv.writer(text)
    table.writerow(HEADER)

    def put(row: Row) -> None:
        table.writerow([escape(c) if isinstance(c := row.get(n, ""), str) else c for n in HEADER])

    yield put
    text.detach()


def _read(row: Row, _notes: Notes) -> PreferencePair:
    told = {name: _typed(name, row[name]) for name in row.keys() & COLUMNS.keys()}
    asked, chosen, rejected = (need(row, name) for name in NEEDS)
    system = (Message(role="system", content=row["system"]),) if "system" in row else ()
    prompt = prompt_of((*system, user(asked)), {}, source_prompt_id(row))
    return make_pair(told, prompt, (assistant(chosen),), (assistant(rejected),))


def _typed(name: str, cell: object) -> object:
    try:
        return COLUMNS[name](cell)
    except (TypeError, ValueError) as error:
        fix = "Give a number, or leave the cell empty."
        raise RefusedError("wrong_type", f"{name} is {cell!r}, not a number", fix) from error


def _write(pair: PreferencePair) -> Row:
    messages = pair.prompt.messages
    system = messages[:1] if messages and messages[0].role == "system" else ()
    row = {
        "prompt": one_text(messages[len(system) :], "user", "the prompt", "csv"),
        "chosen": one_text(pair.chosen, "assistant", "chosen", "csv"),
        "rejected": one_text(pair.rejected, "assistant", "rejected", "csv"),
        **write_columns(pair),
    }
    if system:
        row["system"] = one_text(system, "system", "the system turn", "csv")
    return row


CSV = Format(
    name="csv",
    kind=PreferencePair,
    holds="pairs as plain text in a table, with the raters' columns",
    needs=NEEDS,
    known=frozenset(HEADER),
    read=_read,
    write=_write,
)
