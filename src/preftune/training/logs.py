"""The logs of a run: JSON lines, one row per step, cut back to where a resumed run stands."""

from pathlib import Path
from typing import Any

import msgspec

from preftune.errors import CheckpointError
from preftune.files import write_atomic

LOGS = ("metrics.jsonl", "timing.jsonl", "warnings.jsonl", "probes.jsonl")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; a torn last line is left out.

    Raises:
        CheckpointError: a line that is not JSON.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    try:
        return [msgspec.json.decode(line) for line in whole.splitlines()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}. Start the run in a new folder.") from error


def cut(path: Path, done: int) -> None:
    """Keep the rows of the steps before `done`: the rest is made again, the same."""
    if path.exists():
        rows = [r for r in read_rows(path) if r["step"] is None or r["step"] < done]
        write_atomic(path, b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
