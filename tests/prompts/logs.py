"""Logs to import, and what an import wrote: shared by the tests of prompts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from preftune.demo.world import CareDesk
from preftune.records import decode
from preftune.types import Prompt, Response


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON Lines; text is written as it stands."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def prompts_in(path: Path) -> list[Prompt]:
    records = [decode(line) for line in path.read_bytes().splitlines()]
    return [record for record in records if isinstance(record, Prompt)]


def responses_in(path: Path) -> list[Response]:
    records = [decode(line) for line in path.read_bytes().splitlines()]
    return [record for record in records if isinstance(record, Response)]


def desk_rows(n: int) -> list[dict[str, Any]]:
    """The care desk's log as a chat log."""
    return [
        {
            "id": row.id,
            "channel": row.channel,
            "messages": [
                {"role": m.role, "content": m.content}
                for m in (*row.prompt.messages, *row.reply.messages)
            ],
            "model": row.reply.generator,
            "feedback": row.thumbs,
            "tags": list(row.prompt.tags),
        }
        for row in CareDesk().log_rows(n)
    ]
