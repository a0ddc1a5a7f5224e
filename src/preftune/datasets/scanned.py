"""What reading one row gives: the record, and everything that is wrong or odd with it."""

from dataclasses import dataclass

from preftune.errors import DataError
from preftune.types import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with a row. A fatal one makes it unusable; an odd one is kept and counted."""

    kind: str  # short and stable, such as "empty_response"; used for counting
    what: str
    fix: str
    fatal: bool = True


class RefusedError(DataError):
    """A row cannot be read, or a record cannot be held; the caller knows file and line."""

    def __init__(self, kind: str, what: str, fix: str) -> None:
        super().__init__(kind, what, fix)
        self.problem = Problem(kind=kind, what=what, fix=fix)

    def __str__(self) -> str:
        return f"{self.problem.what}. {self.problem.fix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """One row of a file: its problems, and its record where one could be built (even a bad one)."""

    line: int  # 1-based line of a text file, row number of a Parquet file
    record: Record | None
    problems: tuple[Problem, ...] = ()
    raw: str = ""  # the row as the file has it; kept of refused rows only

    @property
    def usable(self) -> bool:
        """Whether the record may be trained on."""
        return self.record is not None and not any(p.fatal for p in self.problems)
