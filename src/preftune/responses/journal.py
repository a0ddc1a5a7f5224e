"""An append-only file of lines that one process at a time may write; what is appended stays."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from preftune.errors import DataError
from preftune.files import fsync_dir, make_folder


def open_alone(path: Path) -> IO[bytes]:
    """Return the file, made if need be and open for reading and appending, to one process only.

    Raises:
        DataError: another process has it open this way.
    """
    make_folder(path.parent)
    is_new = not path.exists()
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise DataError(f"{path}: another process is writing it. Let it end.") from error
    if is_new:
        fsync_dir(path.parent)
    return file


def append(file: IO[bytes], content: bytes) -> None:
    """Add bytes at the end of the file; they are on disk when this returns."""
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


class Journal:
    """Whole lines, each on disk when `add` returns; a line torn by a crash is cut at the start."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; no other process may have it open.

        Raises:
            DataError: another process is writing it.
        """
        self.path = path
        self._file = open_alone(path)
        self._file.seek(0)
        self.found = self._file.readlines()
        self.torn = bool(self.found) and not self.found[-1].endswith(b"\n")
        if self.torn:
            self._file.truncate(sum(map(len, self.found[:-1])))
            self.found.pop()

    def add(self, line: bytes) -> None:
        """Append one line that ends in a newline."""
        append(self._file, line)

    def note(self, line: bytes) -> None:
        """Append one line that outlives the process, not a power cut before the next `add`."""
        self._file.write(line)
        self._file.flush()

    def delete(self) -> None:
        """Take the file away, durably."""
        self.path.unlink()
        fsync_dir(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file; one that never held a line is taken away."""
        if self.path.exists() and self._file.seek(0, os.SEEK_END) == 0:
            self.delete()
        self._file.close()
