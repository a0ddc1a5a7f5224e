"""What reading one row gives: the record, and everything that is wrong or odd with it."""

from dataclasses import dataclass

from preftune.lines import Problem, RefusedError
from preftune.types import Record

__all__ = ["Problem", "RefusedError", "Scanned"]


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
