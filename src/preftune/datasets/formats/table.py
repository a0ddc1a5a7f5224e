"""All formats under their names, and which of them a file is in."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from preftune.datasets.formats.chat import CHAT
from preftune.datasets.formats.csv_table import CSV
from preftune.datasets.formats.hh import HH
from preftune.datasets.formats.native import PREFTUNE
from preftune.datasets.formats.openai import OPENAI
from preftune.datasets.formats.ranked import RANKED
from preftune.datasets.formats.row import Format
from preftune.datasets.formats.trl import (
    TRL,
    TRL_COMPLETION,
    TRL_IMPLICIT,
    TRL_PROMPT,
    TRL_TEXT,
    TRL_UNPAIRED,
)
from preftune.datasets.formats.ultrafeedback import ULTRAFEEDBACK
from preftune.errors import DataError
from preftune.fields import Row

_JSON_LINES = (
    PREFTUNE,
    HH,
    TRL,
    TRL_TEXT,
    TRL_IMPLICIT,
    TRL_UNPAIRED,
    TRL_COMPLETION,
    TRL_PROMPT,
    ULTRAFEEDBACK,
    OPENAI,
    CHAT,
    RANKED,
)
JSON_LINES = {fmt.name: fmt for fmt in _JSON_LINES}
"""Formats with one JSON object per line; Parquet files hold rows of the same shapes."""

NAMES = (*JSON_LINES, CSV.name, "parquet")


def unknown_format(name: str) -> DataError:
    """Return the error of a format name that is not known."""
    return DataError(f"format {name!r}: not known. Use one of: {', '.join(NAMES)}.")


def detect(path: Path, rows: Sequence[tuple[int, Row]]) -> Format:
    """Return the one format that most of these rows (line number, row) look like.

    Raises:
        DataError: none fits, or several fit equally well; the message lists them.
    """
    votes = Counter(name for _, row in rows for name in _fitting(row))
    ranked = votes.most_common()
    if not ranked:
        line, row = rows[0]
        raise DataError(
            f"{path}:{line}: fields {', '.join(map(repr, row)) or 'none'} fit no known format"
            f"{_closest(row)}. Name it with --format: {', '.join(NAMES)}."
        )
    best = [name for name, count in ranked if count == ranked[0][1]]
    if len(best) > 1:
        raise DataError(
            f"{path}: the first rows fit {' and '.join(best)} equally well. "
            f"Name the format with --format: {', '.join(best)}."
        )
    return JSON_LINES[best[0]]


def _fitting(row: Row) -> list[str]:
    """Return the formats a row looks like; one that states our own `type` is of that alone."""
    fitting = [fmt.name for fmt in JSON_LINES.values() if fmt.takes(row)]
    return [PREFTUNE.name] if PREFTUNE.name in fitting else fitting


def _closest(row: Row) -> str:
    """Return a remark on the format that the row comes closest to, or ""."""
    near = [
        (len(lacking), -len(fmt.needs), fmt.name, lacking)
        for fmt in JSON_LINES.values()
        if (lacking := [name for name in fmt.needs if name not in row])
        and len(lacking) < len(fmt.needs)
    ]
    if not near:
        return ""
    _, _, name, lacking = min(near)
    return f"; closest is {name}, which also has {', '.join(map(repr, lacking))}"
