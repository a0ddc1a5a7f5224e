"""Records that stay in their file: every pass reads it again, one record at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from preftune.datasets import scan
from preftune.datasets.read import row_error
from preftune.errors import DataError
from preftune.types import Demonstration, PreferencePair

R = TypeVar("R", Demonstration, PreferencePair)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFile(Generic[R]):
    """The records of a file, all of one kind; none of them is kept in memory.

    Attributes:
        path: the file.
        kind: what it must hold.
        whole: reads it whole; it is asked only what to do with a file of another kind.
        stamp: size and time of the last change, when this was made.
    """

    path: Path
    kind: type[R]
    whole: Callable[[Path], list[R]]
    stamp: tuple[int, int]

    @classmethod
    def of(cls, path: Path, kind: type[R], whole: Callable[[Path], list[R]]) -> "RecordFile[R]":
        """Return the records of a file as it is now."""
        return cls(path=path, kind=kind, whole=whole, stamp=_stamp(path))

    def __iter__(self) -> Iterator[R]:
        return self.each(lambda _: None)

    def each(self, tell: Callable[[int], object]) -> Iterator[R]:
        """Yield all records, and tell the share of the file read so far, 0 to 100.

        Raises:
            RowError: a row that cannot be used.
            DataError: records of another kind, or the file is no longer the one it was.
        """
        self._check()
        scanned = scan(self.path)
        for row in scanned.rows:
            if row.record is None or not row.usable:
                raise row_error(self.path, row)
            if not isinstance(row.record, self.kind):
                self.whole(self.path)
                raise DataError(f"{self.path}: holds several kinds of records. Give one kind.")
            yield row.record
            tell(scanned.percent())
        self._check()

    def _check(self) -> None:
        if _stamp(self.path) != self.stamp:
            raise DataError(f"{self.path}: was changed while it was in use. Start again.")


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
