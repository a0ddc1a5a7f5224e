"""How often a prompt was asked, and where: the tag `seen:37`, a shelf that counts equal prompts."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

from preftune.errors import DataError
from preftune.files import atomic_open, make_folder
from preftune.records import decode, encode
from preftune.types import LogRow, Prompt

SEEN = "seen:"
MOST_LOG_ROWS = 10  # kept of the rows that asked the same
Tags = tuple[str, ...]
LogRows = tuple[LogRow, ...]


def seen(prompt: Prompt) -> int:
    """Return how often a prompt was asked; a prompt without the tag was asked once.

    Raises:
        DataError: the tag is there twice, or holds no whole number above 0.
    """
    counts = [tag.removeprefix(SEEN) for tag in prompt.tags if tag.startswith(SEEN)]
    if not counts:
        return 1
    if len(counts) > 1 or not counts[0].isascii() or not counts[0].isdigit() or not int(counts[0]):
        raise DataError(
            f"prompt {prompt.id}: tags {[SEEN + c for c in counts]!r} do not say how often it was "
            f"asked. Give one tag such as '{SEEN}37', or none."
        )
    return int(counts[0])


def plain_tags(prompt: Prompt) -> Tags:
    """Return the tags of a prompt but for `seen:…`."""
    return tuple(tag for tag in prompt.tags if not tag.startswith(SEEN))


def asked(prompt: Prompt, times: int) -> Prompt:
    """Return the prompt with `seen:times` as its last tag, in the place of any other count."""
    return replace(prompt, tags=(*plain_tags(prompt), f"{SEEN}{times}"))


def log_rows_of(*some: LogRows) -> LogRows:
    """Return the first `MOST_LOG_ROWS` of these rows of logs, each once."""
    return tuple(dict.fromkeys(row for rows in some for row in rows))[:MOST_LOG_ROWS]


def united(tags: Tags, more: Tags) -> Tags:
    """Return the tags of both, each once, in the order they were first given."""
    return tuple(dict.fromkeys((*tags, *more)))


class Shelf:
    """Holds each different prompt once, with the number of times it was put there.

    The prompts lie in a file; in memory are just their ids, counts and tags, about 300 bytes each,
    and the log rows of prompts that came again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._told: dict[str, tuple[int, Tags]] = {}
        self._more_rows: dict[str, LogRows] = {}  # beside those of the prompt that came first

    def __len__(self) -> int:
        return len(self._told)

    def put(self, prompt: Prompt, times: int = 1) -> None:
        """Add a prompt whose id is the hash of its content, or count it if it is there."""
        tags = plain_tags(prompt)
        if prompt.id in self._told:
            before, known = self._told[prompt.id]
            self._told[prompt.id] = before + times, known if known == tags else united(known, tags)
            rows = self._more_rows.get(prompt.id, ())
            if prompt.log_rows and len(rows) < MOST_LOG_ROWS:
                self._more_rows[prompt.id] = log_rows_of(rows, prompt.log_rows)
            return
        self._file.write(encode(replace(prompt, tags=())))
        self._told[prompt.id] = times, tuple(map(sys.intern, tags))

    def write(self, out: Path) -> None:
        """Write the prompts in the order they first came, each with its tags and its count."""
        self._file.seek(0)
        with atomic_open(out) as file:
            for line, (times, tags) in zip(self._file, self._told.values(), strict=True):
                prompt = cast(Prompt, decode(line))
                rows = log_rows_of(prompt.log_rows, self._more_rows.get(prompt.id, ()))
                file.write(encode(asked(replace(prompt, tags=tags, log_rows=rows), times)))


@contextmanager
def shelf_in(folder: Path) -> Iterator[Shelf]:
    """Yield an empty shelf; its file has no name, so a killed process leaves nothing behind."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield Shelf(file)
